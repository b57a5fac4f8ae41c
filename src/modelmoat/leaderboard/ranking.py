"""The order of defenses in one arena: by the best clone that any attacker made, at equal utility."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modelmoat.core.records import Record
from modelmoat.leaderboard.entries import Arena, Setting
from modelmoat.metrics.intervals import Interval, mean_interval
from modelmoat.report.curves import is_undefended
from modelmoat.report.gap import FLOOR, gaps

BANDS = {"1": 0.01, "5": 0.05, "any": math.inf}
"""How much accuracy users may lose, as shares; defenses are ranked against others within the same limit."""
Role = Literal["ceiling", "floor", "defense"]


@dataclass(frozen=True)
class Cell:
    """What one attacker got from one defended victim, over seeds. Shares in [0, 1], times in seconds."""

    defense: str
    attack: str
    attack_spec: str
    clone_accuracy: Interval
    fidelity: Interval
    sent: float
    unique: float
    query_seconds: float
    train_seconds: float
    knows: str


@dataclass(frozen=True)
class Standing:
    """A defense in one arena.

    ``worst`` is the clone accuracy of ``attack``, the best attacker; ``gap`` is what it lies above the floor, seed by
    seed, or None where there is no floor. ``missing`` names attackers that the undefended victim faced and this one did
    not: such a defense is not ranked. ``ranks`` has a place for every limit of `BANDS` that the defense keeps, and None
    where it is not ranked.
    """

    defense: str
    specs: tuple[str, ...]
    role: Role
    attack: str
    attack_spec: str
    worst: Interval
    gap: Interval | None
    bought: str
    lost: float
    mean_l1: float
    latency_ratio: float
    missing: tuple[str, ...]
    ranks: dict[str, int | None]


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


def rank(arena: Arena) -> Board:
    """Order the defenses of an arena, the least accurate worst-case clone first."""
    asked = [record for record in arena.records if record.sent]
    cells = _cells(arena.records, arena.attackers)
    needed = _needed(asked)
    found = {gap.defense: gap for gap in gaps(asked)}
    standings = []
    for label in sorted({record.defense for record in asked}):
        own = [record for record in asked if record.defense == label]
        standing = _standing(own, arena, needed)
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


def _needed(records: Sequence[Record]) -> set[str]:
    """Attackers that a defense has to face for its place: those of the undefended victim, else those of anyone."""
    plain = {record.attack for record in records if is_undefended(record.defense)}
    return plain or {record.attack for record in records}


def _standing(own: Sequence[Record], arena: Arena, needed: set[str]) -> Standing:
    worst = max(_cells(own, arena.attackers), key=lambda cell: cell.clone_accuracy.mean)
    role = _role(own[0].defense)
    return Standing(
        defense=own[0].defense,
        specs=arena.specs[own[0].defense],
        role=role,
        attack=worst.attack,
        attack_spec=worst.attack_spec,
        worst=worst.clone_accuracy,
        gap=None,
        bought="",
        lost=_mean(record.victim_accuracy - record.defended_accuracy for record in own),
        mean_l1=_mean(record.mean_l1 for record in own),
        latency_ratio=_mean(record.latency_ratio for record in own),
        missing=tuple(sorted(needed - {record.attack for record in own})) if role == "defense" else (),
        ranks={},
    )


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
            knows=group[0].attacker_knows,
        )
        for (defense, attack), group in groups.items()
    ]


def _mean(values: Iterable[float]) -> float:
    return mean_interval(list(values)).mean
