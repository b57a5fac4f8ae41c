"""The order of defenses in one arena: by the best clone that any attacker made, at equal utility."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelmoat.core.records import Record
from modelmoat.leaderboard.entries import Arena, Setting
from modelmoat.leaderboard.required import required
from modelmoat.metrics.intervals import Interval, mean_interval
from modelmoat.report.curves import FLOOR, is_undefended
from modelmoat.report.gap import gaps

BANDS = {"1": 0.01, "5": 0.05, "any": math.inf}
"""How much accuracy users may lose, as shares; defenses are ranked against others within the same limit."""
EQUAL_UTILITY = "1"
"""The limit of `BANDS` that pages show first."""
_AT_HAND = "data_at_hand"
Role = Literal["ceiling", "floor", "defense"]


@dataclass(frozen=True)
class Cell:
    """What one attacker got from one defended victim, over seeds. Shares in [0, 1], times in seconds.

    ``own_kind`` is whether the attacker had images of the victim's kind.
    """

    defense: str
    attack: str
    attack_spec: str
    clone_accuracy: Interval
    fidelity: Interval
    sent: float
    unique: float
    query_seconds: float
    train_seconds: float
    own_kind: bool


@dataclass(frozen=True)
class Standing:
    """A defense in one arena.

    ``worst`` is the clone accuracy of ``attack``, the best attacker; ``outsider`` is what the best one got that had no
    images of the victim's kind, or None where all had some. ``gap`` is what it lies above the floor, seed by
    seed, or None where there is no floor. ``missing`` names attackers that it had to face (`required`) and did not: such a
    defense is not ranked. ``ranks`` has a place for every limit of `BANDS` that the defense keeps, and None
    where it is not ranked.
    """

    defense: str
    specs: tuple[str, ...]
    role: Role
    attack: str
    attack_spec: str
    worst: Interval
    outsider: Cell | None
    gap: Interval | None
    bought: str
    lost: float
    mean_l1: float
    latency_ratio: float
    missing: tuple[str, ...]
    ranks: dict[str, int | None]

    def over(self, band: str) -> bool:
        """Whether users lose more accuracy than a limit allows."""
        return self.role == "defense" and band not in self.ranks


@dataclass(frozen=True)
class Board:
    """One arena with its defenses in order, ceiling and floor among them; ``unasked`` is the best clone without queries."""

    setting: Setting
    standings: tuple[Standing, ...]
    cells: tuple[Cell, ...]
    unasked: Interval | None
    seeds: int
    size: int

    def of(self, role: Role) -> Standing | None:
        """The ceiling or the floor, where it was measured."""
        return next((standing for standing in self.standings if standing.role == role), None)

    def ranked(self, band: str) -> int:
        """How many defenses have a place within a limit."""
        return sum(standing.ranks.get(band) is not None for standing in self.standings)

    def ordered(self, band: str) -> list[Standing]:
        """As a page lists them: first who keeps a limit, ceiling and floor among them, then who does not, then who has no place."""
        return sorted(self.standings, key=lambda one: 2 if one.missing else int(one.over(band)))


def rank(arena: Arena) -> Board:
    """Order the defenses of an arena, the least accurate worst-case clone first."""
    asked = [record for record in arena.records if record.sent]
    cells = _cells(arena.records, arena.attackers)
    needed = required(arena)
    found = {gap.defense: gap for gap in gaps(asked)}
    standings = []
    for label in sorted({record.defense for record in asked}):
        own = [record for record in asked if record.defense == label]
        standing = _standing(own, arena, needed[label])
        if label in found:
            standing = replace(standing, gap=found[label].gap, bought=found[label].bought)
        standings.append(standing)
    unasked = [cell.clone_accuracy for cell in cells if not cell.sent]
    return Board(
        setting=arena.setting,
        standings=tuple(_placed(sorted(standings, key=_order))),
        cells=tuple(cells),
        unasked=max(unasked, key=lambda value: value.mean, default=None),
        seeds=len({record.seed for record in arena.records}),
        size=len(arena.records),
    )


def _role(label: str) -> Role:
    if is_undefended(label):
        return "ceiling"
    return "floor" if label == FLOOR else "defense"


def _standing(own: Sequence[Record], arena: Arena, needed: set[str]) -> Standing:
    cells = _cells(own, arena.attackers)
    worst = _best(cells)
    outsiders = [cell for cell in cells if not cell.own_kind]
    role = _role(own[0].defense)
    return Standing(
        defense=own[0].defense,
        specs=arena.specs[own[0].defense],
        role=role,
        attack=worst.attack,
        attack_spec=worst.attack_spec,
        worst=worst.clone_accuracy,
        outsider=_best(outsiders) if outsiders else None,
        gap=None,
        bought="",
        lost=_mean(record.victim_accuracy - record.defended_accuracy for record in own),
        mean_l1=_mean(record.mean_l1 for record in own),
        latency_ratio=_mean(record.latency_ratio for record in own),
        missing=tuple(sorted(needed - {record.attack for record in own})) if role == "defense" else (),
        ranks={},
    )


def _best(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.clone_accuracy.mean)


def _order(standing: Standing) -> tuple[bool, float, str]:
    """Defenses without a place come last; equal means go by name."""
    return bool(standing.missing), round(standing.worst.mean, 6), standing.defense


def _placed(ordered: Sequence[Standing]) -> list[Standing]:
    """The same with places; equal means share one."""
    return [
        replace(
            standing,
            ranks={band: _place(standing, ordered, limit) for band, limit in BANDS.items() if _keeps(standing, limit)},
        )
        for standing in ordered
    ]


def _keeps(standing: Standing, limit: float) -> bool:
    """Whether the accuracy lost stays within a limit, to the tenth of a point that pages show."""
    return standing.role == "defense" and round(standing.lost, 3) <= limit


def _place(standing: Standing, ordered: Sequence[Standing], limit: float) -> int | None:
    if standing.missing:
        return None
    rivals = [other for other in ordered if _keeps(other, limit) and not other.missing]
    return 1 + sum(round(other.worst.mean, 6) < round(standing.worst.mean, 6) for other in rivals)


def _cells(records: Iterable[Record], attackers: Mapping[str, str]) -> list[Cell]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.defense, record.attack), []).append(record)
    return [
        Cell(
            defense=defense,
            attack=attack,
            attack_spec=attackers[attack],
            clone_accuracy=mean_interval([record.clone_accuracy for record in group]),
            fidelity=mean_interval([record.fidelity for record in group]),
            sent=_mean(record.sent for record in group),
            unique=_mean(record.unique for record in group),
            query_seconds=_mean(record.query_seconds for record in group),
            train_seconds=_mean(record.train_seconds for record in group),
            own_kind=_is_own_kind(group[0]),
        )
        for (defense, attack), group in groups.items()
    ]


def _is_own_kind(record: Record) -> bool:
    """Whether the inputs come from the victim's data set, or from an attack that is about having some of its kind."""
    return _source(record.pool) == _source(record.data) or record.attack.startswith(_AT_HAND)


def _source(reference: str) -> str:
    return reference.partition(",")[0]


def _mean(values: Iterable[float]) -> float:
    return mean_interval(list(values)).mean
