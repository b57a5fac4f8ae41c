"""What an attacker has without a victim, and which clones are no better: they stole nothing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from modelmoat.core.records import Record
from modelmoat.report.wording import count, percent


def baseline_sentences(records: Sequence[Record]) -> list[str]:
    """A sentence on each defense whose best clone, at its largest budget, is no more accurate than the best baseline there.

    A baseline is an attack that asks nothing, trained as the clones of the same victim and budget are.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.victim_digest, record.data, record.output_kind, record.defense), []).append(record)
    return [sentence for own in groups.values() if (sentence := _sentence(own, records))]


def _sentence(own: Sequence[Record], records: Sequence[Record]) -> str:
    asked = [record for record in own if record.sent]
    if not asked:
        return ""
    budget = max(record.budget for record in asked)
    worst, attack = _best([record for record in asked if record.budget == budget])
    idle = [
        record
        for record in records
        if not record.sent
        and (record.victim_digest, record.data, record.budget) == (own[0].victim_digest, own[0].data, budget)
    ]
    if not idle:
        return ""
    start, baseline = _best(idle)
    if worst > start:
        return ""
    return (
        f"{own[0].defense}: nothing was stolen with {count(budget)} queries: the best clone ({attack}, {percent(worst)} right) "
        f"is no better than one that asks nothing ({baseline}, {percent(start)})."
    )


def _best(records: Sequence[Record]) -> tuple[float, str]:
    """Mean accuracy over seeds of the attack that has most, and its name."""
    by_attack: dict[str, list[float]] = {}
    for record in records:
        by_attack.setdefault(record.attack, []).append(record.clone_accuracy)
    return max((mean(values), attack) for attack, values in by_attack.items())
