"""A thief who reckons with a defense: answers pass its recoveries before a strategy or a clone sees them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Self

import torch
from torch import Tensor

from modelmoat.attacks.recoveries.accounts import Accounts
from modelmoat.attacks.recoveries.base import Pointwise, Recovery, Repeated
from modelmoat.attacks.thief import CloneMaker, Theft, Thief, Transfer
from modelmoat.core.errors import OptionError
from modelmoat.core.seeds import generator
from modelmoat.models import Classifier
from modelmoat.training import FitResult, Images, as_images, cross_entropy
from modelmoat.victims import Answers


def _is_pointwise(step: Recovery) -> bool:
    return isinstance(step, Pointwise)


@dataclass(frozen=True)
class Plan:
    """When each recovery acts.

    Attributes:
        repeated: sends copies; None where every input is asked once.
        arriving: act on each answer as it arrives, so that a strategy sees what they leave.
        training: act on the whole transfer set, before every training.
        accounts: how many take turns at asking; None as the thief has it.
    """

    repeated: Repeated | None
    arriving: tuple[Pointwise, ...]
    training: tuple[Recovery, ...]
    accounts: int | None = None

    @classmethod
    def of(cls, recoveries: Sequence[Recovery]) -> Plan:
        """Recoveries that look at one answer at a time act as it arrives, up to the first that looks at all."""
        accounts = [step.count for step in recoveries if isinstance(step, Accounts)]
        rest = [step for step in recoveries if not isinstance(step, Accounts)]
        repeated = rest[0] if rest and isinstance(rest[0], Repeated) else None
        rest = rest[1:] if repeated else rest
        arriving = [step for step in itertools.takewhile(_is_pointwise, rest) if isinstance(step, Pointwise)]
        return cls(repeated, tuple(arriving), tuple(rest[len(arriving) :]), *accounts[:1])

    @property
    def copies(self) -> int:
        """Queries per input."""
        return self.repeated.copies if self.repeated else 1


@dataclass(frozen=True, kw_only=True)
class AwareThief(Thief):
    """A thief with recoveries.

    Attributes:
        plan: the recoveries.
        plain: the same thief without them.
        goal: queries in all.
    """

    plan: Plan
    plain: Thief
    goal: int
    _asked: dict[str, int] = field(default_factory=lambda: {"inputs": 0}, repr=False)

    @classmethod
    def of(cls, thief: Thief, plan: Plan, *, goal: int, wanted: frozenset[int] | None) -> Self:
        """A thief with the means of another; ``wanted`` counts inputs, not copies."""
        means: Mapping[str, object] = {item.name: getattr(thief, item.name) for item in fields(Thief)}
        means = {**means, "wanted": wanted, "accounts": plan.accounts or thief.accounts}
        return cls(**means, plan=plan, plain=thief, goal=goal)  # type: ignore[arg-type]

    def check_affordable(self, count: int) -> None:
        """As `Thief.check_affordable`, for inputs with all their copies."""
        super().check_affordable(count * self.plan.copies)

    def query(self, inputs: Tensor) -> Answers:
        """Answers after the recoveries that act on each; every copy that is sent is charged."""
        repeated = self.plan.repeated
        if repeated is None:
            answers = super().query(inputs)
        else:
            answers = super().query(self._copies(repeated, inputs))
            answers = repeated.merge(answers, answers.targets().unflatten(0, (len(inputs), repeated.copies)))
        for step in self.plan.arriving:
            answers = step.receive(answers)
        return answers

    def recovered(self, images: Tensor | Images, targets: Tensor, stage: str) -> Transfer:
        """The transfer set after the recoveries that look at all of it."""
        transfer = Transfer(as_images(images), targets)
        for number, step in enumerate(self.plan.training, start=1):
            transfer = step.restore(transfer, self.plain, f"{stage}, {step.name} {number}")
        return transfer

    def steal(self, budget: int, images: Tensor | Images, targets: Tensor, maker: CloneMaker | None = None) -> Theft:
        """Train the final clone at a budget on the recovered transfer set."""
        return super().steal(budget, images, targets, partial(self._make_recovered, maker))

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is; queries are counted with all their copies."""
        if stage == "queries":
            done, total = self.victim.ledger.sent, self.goal
        super().report(stage, done, total)

    def _make_recovered(
        self, maker: CloneMaker | None, images: Images, targets: Tensor, stage: str
    ) -> tuple[Classifier, FitResult]:
        known = self.recovered(images, targets, stage)
        if known.objective is cross_entropy:
            return (maker or self.make)(known.images, known.targets, stage)
        if maker is not None:  # a method of a plug-in that does not say so: `Composed` refuses the others beforehand
            raise OptionError("a recovery changed the loss of clones that are trained in a way of their own")
        clone = self.new_clone("final")
        return clone, self.train(clone, known.images, known.targets, stage, objective=known.objective)

    def _copies(self, repeated: Repeated, inputs: Tensor) -> Tensor:
        """All copies of all inputs, those of one input one after the other; each draws by its number in the stream."""
        first = self._asked["inputs"]
        self._asked["inputs"] += len(inputs)
        copies = [repeated.spread(image, generator(self.seed, "copies", first + at)) for at, image in enumerate(inputs)]
        return torch.cat(copies)
