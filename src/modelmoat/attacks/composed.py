"""An attack with recoveries: any strategy, by an attacker who knows the defense."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from modelmoat.attacks._aware import AwareThief, Plan
from modelmoat.attacks._stream import StreamAttack
from modelmoat.attacks.base import ATTACKS, Attack, checked_budgets
from modelmoat.attacks.insight import Insight
from modelmoat.attacks.recoveries import RECOVERIES, Recovery, Repeated
from modelmoat.attacks.recoveries.accounts import Accounts
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError, UnknownReference, require
from modelmoat.core.registry import split_outside
from modelmoat.data import ImageSet
from modelmoat.victims.answers import OutputKind

_BEGINS_A_NAME = re.compile(r"\s*[A-Za-z_]\w*\s*(?:$|:)")


@dataclass(frozen=True, kw_only=True, repr=False)
class Composed(Attack):
    """A strategy and recoveries, written ``knockoff+averaging:copies=3+temperature:t=0.5``.

    Answers pass the recoveries from left to right. One that sends copies comes first, and its copies share the budget:
    with three of each, a budget of 1,000 queries is 333 inputs. Recoveries that look at one answer at a time act as it
    arrives; from the first on that looks at all answers together, they act before every training, on raw answers.

    >>> attack = parse_attack("knockoff+averaging:copies=4+label_only")
    >>> attack.spec, attack.defense_aware, attack.copies
    ('knockoff+averaging:copies=4+label_only', True, 4)
    """

    attack: Attack
    recoveries: tuple[Recovery, ...]

    name: ClassVar[str] = "composed"
    paper: ClassVar[str] = "-"
    knows: ClassVar[str] = "-"

    def __post_init__(self) -> None:
        require(bool(self.recoveries), "an attack with no recovery; fix: give the attack itself")
        require(
            not isinstance(self.attack, Composed),
            f"'{self.attack.spec}' has recoveries already; fix: join them with '+'",
        )
        require(
            self.attack.sends, f"'{self.attack.spec}' asks nothing, so there is nothing to recover; fix: give it alone"
        )
        for step in [step for step in self.recoveries if not isinstance(step, Accounts)][1:]:
            require(
                not isinstance(step, Repeated),
                f"'{step.spec}' sends copies and has to come first and alone of its kind; "
                f"fix: {self.attack.spec}+{step.spec}+...",
            )
        require(
            sum(isinstance(step, Accounts) for step in self.recoveries) <= 1,
            f"'{self.attack.spec}' with accounts twice; fix: one accounts:count=N",
        )
        late = Plan.of(self.recoveries).training
        require(
            not (late and isinstance(self.attack, StreamAttack)),
            f"'{late[0].spec if late else ''}' looks at all answers before a training, and the clones of "
            f"'{self.attack.spec}' learn as they ask; fix: a recovery that looks at one answer at a time, such as "
            "temperature, or another attack",
        )
        for step in self.recoveries:
            require(
                not (step.changes_loss and self.attack.own_training),
                f"'{step.spec}' changes the loss, and '{self.attack.spec}' trains its clones in its own way; fix: combine it "
                "with knockoff or a Jacobian attack",
            )
        usable = frozenset(kind for kind in sorted(self.attack.outputs) if self._stuck(kind) is None)
        if not usable:
            raise OptionError(self._stuck("probabilities") or f"'{self.spec}' cannot use any kind of answers")
        object.__setattr__(self, "outputs", usable)

    @cached_property
    def spec(self) -> str:
        """The specs of strategy and recoveries, joined by ``+``."""
        return "+".join([self.attack.spec, *(step.spec for step in self.recoveries)])

    @property
    def copies(self) -> int:
        """Queries per input of the strategy."""
        return Plan.of(self.recoveries).copies

    @property
    def defense_aware(self) -> bool:
        """Always."""
        return True

    @property
    def own_kind(self) -> float:
        """What the strategy holds."""
        return self.attack.own_kind

    def knowledge(self) -> str:
        """What strategy and recoveries are given, in words."""
        return "; ".join([self.attack.knowledge(), *(f"{step.name}: {step.knowledge()}" for step in self.recoveries)])

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Every budget has to pay for all copies of an input at least, and the strategy needs a pool for its inputs."""
        self.attack.check(self._inputs(budgets), pool_size)

    def check_fit(self, pool: ImageSet, num_classes: int) -> None:
        """What strategy and recoveries need of the pool and the victim's classes."""
        self.attack.check_fit(pool, num_classes)
        for step in self.recoveries:
            step.check_fit(pool, num_classes)

    def check_insight(self, insight: Insight) -> None:
        """Raise `OptionError` where a recovery does not help against the defense."""
        self._informed(insight)

    def beside(self) -> Attack | None:
        """The same recoveries on what the strategy is to be compared with."""
        other = self.attack.beside()
        return replace(self, attack=other) if other else None

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """The strategy's thefts, at budgets that count every copy; what is left of a budget after whole inputs is not spent."""
        inputs = dict(zip(checked_budgets(budgets), self._inputs(budgets), strict=True))
        wanted = None if thief.wanted is None else frozenset(inputs[budget] for budget in thief.wanted & inputs.keys())
        aware = AwareThief.of(thief, Plan.of(self._informed(thief.insight)), goal=max(inputs), wanted=wanted)
        for theft in self.attack.run(aware, sorted(set(inputs.values()))):
            for budget in (budget for budget, count in inputs.items() if count == theft.budget):
                kept = thief.wanted is None or budget in thief.wanted
                yield replace(theft, budget=budget, clone=theft.clone if kept else None)

    def _informed(self, insight: Insight | None) -> tuple[Recovery, ...]:
        return tuple(step.informed(insight) for step in self.recoveries)

    def _inputs(self, budgets: Sequence[int]) -> list[int]:
        """Inputs that each of the budgets pays for."""
        copies = self.copies
        checked = checked_budgets(budgets)
        if checked[0] < copies:
            raise OptionError(
                f"budget {checked[0]}: '{self.spec}' sends each input {copies} times; expected at least {copies} queries"
            )
        return [budget // copies for budget in checked]

    def _stuck(self, kind: OutputKind) -> str | None:
        """What hinders the recoveries from using answers of a kind; None if nothing does."""
        plan = Plan.of(self.recoveries)
        first = (*(step for step in self.recoveries if isinstance(step, Accounts)), plan.repeated, *plan.arriving)
        arriving: list[Recovery] = [step for step in first if step is not None]
        for step in arriving:
            if kind not in step.outputs:
                return self._cannot(step, kind)
            kind = step.gives(kind)
        if kind not in self.attack.outputs:
            return f"'{self.attack.spec}' cannot use answers of kind '{kind}', which '{self.recoveries[0].spec}' leaves"
        kind = "label" if self.attack.targets == "label" else kind
        for step in plan.training:
            if kind not in step.outputs:
                return self._cannot(step, kind)
            kind = step.gives(kind)
        return None

    def _cannot(self, step: Recovery, kind: OutputKind) -> str:
        possible = ", ".join(sorted(step.outputs))
        return (
            f"'{step.spec}' in '{self.spec}' cannot use answers of kind '{kind}', it can use {possible}; "
            "fix: put what leaves labels alone (label_only, targets=label) after it, or leave one of them out"
        )


def parse_attack(reference: str) -> Attack:
    """Build an attack from ``name:param=value,param=value``, with recoveries after a ``+`` each.

    >>> parse_attack("knockoff:targets=label").targets
    'label'
    >>> parse_attack("knockoff+partial_bayes:assumed=(dcp:beta=0.3,nu=100)").recoveries[0].assumed
    'dcp:beta=0.3,nu=100'
    """
    first, *rest = _parts(reference)
    if rest and not all([first, *rest]):
        raise UnknownReference(
            f"attack '{reference}': nothing on one side of a '+'; expected an attack and recoveries, such as "
            "knockoff+label_only"
        )
    _check_order(reference, first, rest)
    attack = ATTACKS.parse(first)
    return Composed(attack=attack, recoveries=tuple(map(RECOVERIES.parse, rest))) if rest else attack


def _parts(reference: str) -> list[str]:
    """Split at plus signs that a name follows, outside of parentheses."""
    parts: list[str] = []
    for piece in split_outside(reference, "+"):
        if parts and piece.strip() and not _BEGINS_A_NAME.match(piece):
            parts[-1] += f"+{piece}"  # a number such as 1e+3
        else:
            parts.append(piece)
    return [part.strip() for part in parts]


def _check_order(reference: str, first: str, rest: Sequence[str]) -> None:
    name = first.partition(":")[0].strip()
    if name in RECOVERIES.names() and name not in ATTACKS.names():
        raise UnknownReference(
            f"attack '{reference}': '{name}' is a recovery, which needs an attack before it; fix: knockoff+{first}"
        )
    for part in rest:
        other = part.partition(":")[0].strip()
        if other in ATTACKS.names() and other not in RECOVERIES.names():
            raise UnknownReference(
                f"attack '{reference}': '{other}' is an attack, and only recoveries may follow the first '+': "
                f"{', '.join(RECOVERIES.names())}"
            )
