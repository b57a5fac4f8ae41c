"""Floor, ceiling and what lies between: how a defense does against the labels alone.

Whoever keeps labels serves them, so the clone that an attacker trains on labels is the floor of every such defense, and
the clone of the undefended victim is its ceiling. The gap to the floor is what a defense leaves to be gained beyond labels;
that of the undefended victim is what serving labels alone would take from attackers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from modelmoat.core.records import Record
from modelmoat.metrics.intervals import Interval, mean_interval
from modelmoat.report.curves import FLOOR, is_undefended
from modelmoat.report.wording import count, half_width, listed, percent, signed_points
from modelmoat.victims.answers import EXPLAINED

_CHANGED = 0.0005  # share of labels under which none count as changed


@dataclass(frozen=True, slots=True)
class Gap:
    """The worst case of a defense between floor and ceiling, at one budget; clone accuracies as shares in [0, 1].

    ``gap`` is the worst case less the floor, seed by seed; ``ceiling`` is None without rows of the undefended victim.
    ``bought`` says what a gap below zero was bought with, and is empty for others.
    """

    defense: str
    attack: str
    budget: int
    worst: float
    floor: float
    floor_attack: str
    ceiling: float | None
    gap: Interval
    bought: str


def gaps(records: Sequence[Record]) -> list[Gap]:
    """One for each victim, defense (``none`` too) and its largest budget, the smallest first; [] without ``label_only`` rows.

    There is no floor where answers are labels anyway, or where explanations of the undefended model come with them.
    """
    asked = [record for record in records if record.sent and record.output_kind not in ("label", EXPLAINED)]
    found = [_gap(own, asked) for own in _by_defense(asked)]
    return sorted((gap for gap in found if gap), key=lambda gap: gap.gap.mean)


def _by_defense(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        if record.defense != FLOOR:
            key = (record.victim_digest, record.data, record.output_kind, record.defense)
            groups.setdefault(key, []).append(record)
    return list(groups.values())


def _gap(own: Sequence[Record], all_records: Sequence[Record]) -> Gap | None:
    budget = max(record.budget for record in own)
    first = own[0]
    beside = [
        record
        for record in all_records
        if record.budget == budget
        and (record.victim_digest, record.data, record.output_kind)
        == (first.victim_digest, first.data, first.output_kind)
    ]
    floor = _best([record for record in beside if record.defense == FLOOR])
    ceiling = _best([record for record in beside if is_undefended(record.defense)])
    worst = _best([record for record in own if record.budget == budget])
    common = sorted(floor[1].keys() & worst[1].keys()) if floor and worst else []
    if not floor or not worst or not common:
        return None
    gap = mean_interval([worst[1][seed] - floor[1][seed] for seed in common])
    return Gap(
        defense=first.defense,
        attack=worst[0],
        budget=budget,
        worst=mean(worst[1].values()),
        floor=mean(floor[1].values()),
        floor_attack=floor[0],
        ceiling=mean(ceiling[1].values()) if ceiling else None,
        gap=gap,
        bought=_bought(own) if gap.mean < 0 else "",
    )


def _best(records: Sequence[Record]) -> tuple[str, dict[int, float]] | None:
    """The attack with the most accurate clones, and their accuracy by seed."""
    by_attack: dict[str, dict[int, float]] = {}
    for record in records:
        by_attack.setdefault(record.attack, {})[record.seed] = record.clone_accuracy
    return max(by_attack.items(), key=lambda item: mean(item[1].values()), default=None)


def _bought(own: Sequence[Record]) -> str:
    """What can push a clone below the labels, of what this defense does."""
    changed = mean(record.top1_changed for record in own)
    price = mean(record.victim_accuracy - record.defended_accuracy for record in own)
    paid = [f"{percent(changed)} of labels changed"] if changed > _CHANGED else []
    if not paid and not own[0].defense_keeps_top1:
        paid = ["labels changed for the attacker's inputs, if not for users'"]
    paid += [f"{percent(price)} of accuracy"] if price > _CHANGED else []
    paid += ["state kept between queries"] if any(record.defense_stateful for record in own) else []
    if paid:
        return listed(paid)
    return "nothing: the tested attackers made less of its answers than of labels, which it serves too"


def gap_sentences(found: Sequence[Gap]) -> list[str]:
    """A sentence on each gap, and on what was paid for one below zero."""
    return [
        f"{gap.defense}: gap to floor {gap_points(gap)} points at {count(gap.budget)} queries (worst case {gap.attack}, "
        f"{percent(gap.worst)}; floor {percent(gap.floor)}"
        f"{f', ceiling {percent(gap.ceiling)}' if gap.ceiling is not None else ''})"
        f"{f'; bought with {gap.bought}' if gap.bought else ''}."
        for gap in found
    ]


def gap_points(gap: Gap) -> str:
    """The gap in percentage points with its sign and its interval."""
    return f"{signed_points(gap.gap.mean)}{half_width(gap.gap)}"
