"""Which attackers a defense has to face for its place: fewer attackers make a better worst case."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache

from modelmoat.assessment.insight import DefenseInsight
from modelmoat.assessment.suites import SUITES, Suite, has_a_use
from modelmoat.attacks import parse_attack
from modelmoat.core.errors import ModelmoatError
from modelmoat.defenses import parse_defense
from modelmoat.leaderboard.entries import Arena
from modelmoat.report.curves import is_undefended


def required(arena: Arena) -> dict[str, set[str]]:
    """Labels of attackers by that of the defense.

    They are those of the undefended victim, and of the suite's others, such as those who know the defense, each that has
    a use against it and that anyone faced. Without an undefended victim all attackers of anyone count that have a use.
    """
    faced = {(record.defense, record.attack) for record in arena.records if record.sent}
    plain = {attack for defense, attack in faced if is_undefended(defense)}
    others = {attack for _, attack in faced} - plain
    if plain:
        suite = set(_suite({arena.attackers[one] for one in plain}, {arena.attackers[one] for one in others}).attacks)
        others = {attack for attack in others if arena.attackers[attack] in suite}
    return {
        label: plain | {attack for attack in others if any(_fits(arena.attackers[attack], spec) for spec in specs)}
        for label, specs in arena.specs.items()
    }


def _suite(plain: Collection[str], others: Collection[str]) -> Suite:
    """The largest suite of which the undefended victim faced all that anyone did, but for recoveries; else the smallest."""
    by_size = sorted(SUITES.values(), key=lambda suite: len(suite.attacks))
    covered = [suite for suite in by_size if set(_bare(suite)).isdisjoint(set(others) - set(plain))]
    return (covered or by_size[:1])[-1]


def _bare(suite: Suite) -> Iterable[str]:
    """Attackers that an undefended victim can face."""
    return (attack for attack in suite.attacks if _fits(attack, "none"))


@cache
def _fits(attack: str, defense: str) -> bool:
    """Whether the attacker has a use against the defense; of methods that this version does not have every one counts."""
    try:
        return has_a_use(parse_attack(attack), DefenseInsight(parse_defense(defense)))
    except ModelmoatError:
        return True
