"""From records to points: one point is a defense, an attack and a budget, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from modelmoat.core.records import Record
from modelmoat.metrics.intervals import Interval, mean_interval

UNDEFENDED = "none"
METRICS = (
    "sent",
    "unique",
    "clone_accuracy",
    "fidelity",
    "served_fidelity",
    "relative_accuracy",
    "victim_accuracy",
    "defended_accuracy",
    "mean_l1",
    "top1_changed",
    "calibration_error",
    "defended_calibration_error",
    "latency_ratio",
)
OPTIONAL_METRICS = ("robust_accuracy", "clone_robust_accuracy", "transfer")
"""Measured only when asked for; a point has them where all of its records do."""
FLOOR = "label_only"
"""The defense that serves labels alone: what attackers make of it is the floor of those that keep labels."""
_VICTIM = ("victim", "victim_recipe", "data")
_ATTACKER = ("pool", "clone_arch")
_SETTING = (*_VICTIM, "output_kind", *_ATTACKER, "defense", "attack", "budget")

Item = TypeVar("Item")
Key = TypeVar("Key")


@dataclass(frozen=True)
class Point:
    """One cell of the study, averaged over its seeds.

    ``defense_label`` and ``attack_label`` name what also varies in the run (output kind, pool and so on), so that two
    different settings never share a label.
    """

    record: Record
    defense_label: str
    attack_label: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]

    @property
    def defense(self) -> str:
        """Reference of the defense."""
        return self.record.defense

    @property
    def budget(self) -> int:
        """Inputs that the attacker was allowed to send."""
        return self.record.budget

    @property
    def undefended(self) -> bool:
        """Whether the victim answered without a defense."""
        return is_undefended(self.record.defense)

    @property
    def queries(self) -> float:
        """Inputs answered, mean over seeds."""
        return self.metrics["sent"].mean

    @property
    def fidelity(self) -> Interval:
        """Share of test inputs on which clone and undefended victim agree."""
        return self.metrics["fidelity"]

    @property
    def accuracy_loss(self) -> float:
        """Accuracy that users lose to the defense, as a share; negative where they gain."""
        return self.metrics["victim_accuracy"].mean - self.metrics["defended_accuracy"].mean


@dataclass(frozen=True)
class Curve:
    """Points of one defense and one attack, by rising budget."""

    defense: str
    attack: str
    points: tuple[Point, ...]

    @property
    def undefended(self) -> bool:
        """Whether the victim answered without a defense."""
        return self.points[0].undefended


def is_undefended(defense: str) -> bool:
    """Whether a defense reference stands for no defense."""
    return defense.partition(":")[0].strip() == UNDEFENDED


def aggregate(records: Sequence[Record]) -> list[Point]:
    """Average records over seeds; a cell that was written twice counts once, its last row.

    Points come in the order of tables and legends: the undefended victim first, then the defenses and the attacks by
    the best clone they allowed or made, the most faithful first, then rising budgets.
    """
    rows = list({record.cell: record for record in records}.values())
    names = _Names(rows)
    points = [_point(group, names) for group in _grouped(rows, lambda row: _values(row, _SETTING)).values()]
    by_defense = _strength(points, lambda point: point.defense_label)
    by_attack = _strength(points, lambda point: point.attack_label)
    return sorted(
        points,
        key=lambda point: (
            not point.undefended,
            -by_defense[point.defense_label],
            point.defense_label,
            -by_attack[point.attack_label],
            point.attack_label,
            point.budget,
        ),
    )


def _strength(points: Sequence[Point], key: Callable[[Point], str]) -> dict[str, float]:
    return {name: max(p.fidelity.mean for p in group) for name, group in _grouped(points, key).items()}


def curves(points: Iterable[Point]) -> list[Curve]:
    """Points joined to curves, the undefended victim's first."""
    groups = _grouped(points, lambda point: (point.defense_label, point.attack_label))
    return [
        Curve(defense, attack, tuple(sorted(group, key=lambda point: point.budget)))
        for (defense, attack), group in groups.items()
    ]


def thefts(points: Sequence[Point]) -> list[Point]:
    """Points of attacks that asked the victim; all of them where none did, as in a run of nothing but baselines."""
    return [point for point in points if point.queries] or list(points)


def one_victim(points: Sequence[Point]) -> tuple[list[Point], int]:
    """The points of the most stealable victim, and how many victims the run has.

    A defense is judged against its own victim, so a verdict never mixes two of them.
    """
    groups = _grouped(points, lambda point: _values(point.record, _VICTIM))
    worst = max(groups.values(), key=lambda group: max((p.fidelity.mean for p in group if p.undefended), default=-1.0))
    return worst, len(groups)


def queries_to_reach(points: Sequence[Point], fidelity: float) -> float | None:
    """Queries at which a mean curve first reaches a fidelity, linear in log queries between measured budgets.

    Returns the smallest measured number of queries where that already reaches it, and None where no budget does.
    """
    previous: Point | None = None
    for point in points:
        if point.fidelity.mean >= fidelity:
            return point.queries if previous is None else _between(previous, point, fidelity)
        previous = point
    return None


def _between(low: Point, high: Point, fidelity: float) -> float:
    share = (fidelity - low.fidelity.mean) / (high.fidelity.mean - low.fidelity.mean)
    start, end = math.log(max(low.queries, 1.0)), math.log(max(high.queries, 1.0))
    return math.exp(start + share * (end - start))


class _Names:
    """Labels of defenses and attacks, with what else tells two settings of one method apart in this run."""

    def __init__(self, rows: Sequence[Record]) -> None:
        self._victim = _varying(rows, _VICTIM)
        self._output = {
            name: _varying(group, ("output_kind",)) for name, group in _grouped(rows, lambda r: r.defense).items()
        }
        self._attack = {name: _varying(group, _ATTACKER) for name, group in _grouped(rows, lambda r: r.attack).items()}

    def defense(self, row: Record) -> str:
        name = "undefended" if is_undefended(row.defense) else row.defense
        return _label(name, row, self._victim + self._output[row.defense])

    def attack(self, row: Record) -> str:
        return _label(row.attack, row, self._attack[row.attack])


def _varying(rows: Sequence[Record], fields: Sequence[str]) -> list[str]:
    return [field for field in fields if len({getattr(row, field) for row in rows}) > 1]


def _label(name: str, row: Record, fields: Sequence[str]) -> str:
    extra = f" ({', '.join(str(getattr(row, field)) for field in fields)})" if fields else ""
    return " ".join((name + extra).split())


def _point(group: Sequence[Record], names: _Names) -> Point:
    return Point(
        record=group[0],
        defense_label=names.defense(group[0]),
        attack_label=names.attack(group[0]),
        seeds=tuple(sorted(row.seed for row in group)),
        metrics={name: mean_interval([getattr(row, name) for row in group]) for name in (*METRICS, *_measured(group))},
    )


def _measured(group: Sequence[Record]) -> list[str]:
    return [name for name in OPTIONAL_METRICS if all(getattr(row, name) is not None for row in group)]


def _values(row: Record, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in names)


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
