"""Fixed sets of attackers: what a defense has to hold against before anything is claimed of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modelmoat.attacks import Attack, Composed, Insight, parse_attack
from modelmoat.core.errors import OptionError, UnknownReference, nearest
from modelmoat.data import ImageSet
from modelmoat.victims import OutputFormat

_NAIVE = ("knockoff", "knockoff:targets=label")
_CHEAP = (
    "knockoff+accounts",
    "knockoff+confidence",
    "knockoff+latest",
    "data_at_hand:share=0.01",
    "data_at_hand:targets=label,share=0.01",
)
_STRONG = (
    "activethief",
    "activethief:targets=label",
    "copycat",
    "data_at_hand:share=0.1",
    "data_at_hand:targets=label,share=0.1",
    "knockoff+temperature",
    "knockoff+inverse",
    "knockoff+partial_bayes",
    "knockoff+d_dae",
)
_REST = (
    "e3",
    "e3:targets=label",
    "fixmatch",
    "mixmatch",
    "s4l",
    "knockoff_adaptive",
    "inversenet",
    "jbda",
    "jbda_tr",
    "jb_self",
    "jb_top3",
    "disguide",
    "disguide:targets=label",
    "dfme",
    "maze",
    "dfms",
    "dfms:targets=label",
    "dfhl_rs",
    "best",
    "megex",
    "zsdb3kd",
    "knockoff+averaging",
    "knockoff+averaging:copies=10",
    "knockoff+averaging:over=repeats",
    "knockoff+majority_vote",
    "knockoff+accounts:count=100",
    "knockoff+transition",
    "knockoff+identify",
    "knockoff+queen_inverse",
    "knockoff+partial_bayes:assumed=dcp:beta=0.9",
    "knockoff+d_dae_plus",
)
_BASELINES = ("no_victim", "no_victim:labels=none")


@dataclass(frozen=True)
class Suite:
    """A version of a suite; its attackers have no parameters to tune.

    Attributes:
        name: quick, standard or full.
        version: goes up when the attackers change, so that two numbers of one version can be compared.
        attacks: specs of the attackers.
    """

    name: str
    version: int
    attacks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"

    def attackers(self) -> tuple[Attack, ...]:
        """All of them."""
        return tuple(map(parse_attack, self.attacks))


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite("quick", 2, (*_NAIVE, *_CHEAP, *_BASELINES)),
        Suite("standard", 3, (*_NAIVE, *_CHEAP, *_STRONG, *_BASELINES)),
        Suite("full", 3, (*_NAIVE, *_CHEAP, *_STRONG, *_REST, *_BASELINES)),
    )
}


def find_suite(name: str) -> Suite:
    """A suite by name; raises `UnknownReference`."""
    if name not in SUITES:
        raise UnknownReference(f"suite '{name}': expected one of {', '.join(SUITES)}{nearest(name, tuple(SUITES))}")
    return SUITES[name]


def misfit(attack: Attack, pool: ImageSet, budgets: tuple[int, ...], classes: int, output: OutputFormat) -> str | None:
    """Why an attacker of a suite has no place in this run; None where it has one."""
    if output.kind not in attack.outputs:
        return f"it cannot use answers of kind '{output}'"
    try:
        attack.check(budgets, len(pool))
        attack.check_fit(pool, classes)
    except OptionError as error:
        return str(error)
    return None


def has_a_use(attack: Attack, insight: Insight) -> bool:
    """Whether an attacker of a suite can gain anything against a defense.

    Recoveries have nothing to recover from an undefended victim or from one that serves labels, and some are for certain
    defenses only.
    """
    steps = insight.steps()
    if isinstance(attack, Composed) and all(step.name in ("none", "label_only") for step in steps):
        return False
    try:
        attack.check_insight(insight)
    except OptionError:
        return False
    return True
