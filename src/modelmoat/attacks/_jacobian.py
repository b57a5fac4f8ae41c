"""What the Jacobian-based attacks share: seeds, and rounds of inputs crafted on the clone's gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks.base import Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError, require
from modelmoat.core.seeds import generator
from modelmoat.models import Classifier
from modelmoat.training import as_float

_CRAFT_BATCH = 256
_ROUND_STEPS = 200  # ten epochs of 150 images would be twenty steps, too few for gradients that mean anything


@dataclass(frozen=True, kw_only=True, repr=False)
class JacobianAttack(Attack):
    """Seeds from the pool, then rounds: train a clone on what is answered, craft new inputs from all of it, ask them.

    Rounds go on until the budget is spent; the last one is cut to it. An input is asked once and keeps its answer, unless
    ``relabel`` asks the whole set again in every round, as the original procedure does. Clones inside the rounds are
    trained from scratch for ``round_epochs`` epochs.
    """

    seeds: int = 150
    """Images of the pool that are asked first."""
    round_epochs: int = 10
    """Epochs of the clone that each round trains."""
    relabel: bool = False
    """Ask the whole set again in every round and keep the newest answers: twice the bill, for nothing new where answers repeat."""

    knows: ClassVar[str] = (
        "input size, number of classes, seed images drawn from the pool (the papers draw them from the victim's own "
        "distribution); not the victim's training data or architecture"
    )

    def __post_init__(self) -> None:
        require(self.seeds >= 2, f"{self.name}:seeds={self.seeds}: expected at least 2")
        require(self.round_epochs >= 1, f"{self.name}:round_epochs={self.round_epochs}: expected at least 1")

    @abstractmethod
    def craft(self, clone: Classifier, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """New inputs from answered ones.

        Args:
            clone: in evaluation mode.
            inputs: float32 [N, C, H, W] in [0, 1]; not to be changed.
            labels: the victim's answers as labels, int64 [N].
            random: source of random draws.

        Returns:
            float32 [N, V, C, H, W] in [0, 1], V variants of each input.
        """

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """The pool has to hold the seeds; all that is sent beyond them is crafted."""
        checked_budgets(budgets)
        if self.seeds > pool_size:
            raise OptionError(
                f"{self.name}:seeds={self.seeds}: the pool has {pool_size:,} images; "
                f"fix: {self.name}:seeds={pool_size} or fewer, or a larger pool"
            )

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """Spend each budget exactly; yields a final clone, trained from scratch, at each."""
        self.check(budgets, len(thief.pool))
        budgets = checked_budgets(budgets)
        transfer = _TransferSet(self, thief, budgets)
        yield from transfer.extend(as_float(thief.pool.batch(thief.pool_order()[: self.seeds])))
        rounds = 0
        while transfer.size < budgets[-1]:
            rounds += 1
            if self.relabel and rounds > 1:
                yield from transfer.ask_again()
            yield from self._round(thief, transfer, rounds)

    def _round(self, thief: Thief, transfer: _TransferSet, number: int) -> Iterator[Theft]:
        if transfer.size >= transfer.goal:
            return
        clone = thief.new_clone("round", number)
        inputs, targets, labels = transfer.inputs, transfer.targets, transfer.labels
        known = thief.recovered(inputs, targets, f"round {number}")
        thief.train(
            clone,
            known.images,
            known.targets,
            f"round {number}",
            objective=known.objective,
            epochs=self.round_epochs,
            min_steps=_ROUND_STEPS,
        )
        random = generator(thief.seed, "craft", number)
        clone.eval()
        for start in range(0, len(inputs), _CRAFT_BATCH):
            if transfer.size >= transfer.goal:
                return
            rows = slice(start, start + _CRAFT_BATCH)
            device = next(clone.parameters()).device
            made = self.craft(clone, inputs[rows].to(device), labels[rows].to(device), random).flatten(0, 1).cpu()
            yield from transfer.extend(made)


class _TransferSet:
    """Answered inputs, and the budgets that asking for them completes; ``size`` is what was asked so far."""

    def __init__(self, attack: JacobianAttack, thief: Thief, budgets: list[int]) -> None:
        thief.check_affordable(budgets[-1])
        self._attack, self._thief = attack, thief
        self._waiting = list(budgets)
        self._inputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.goal = budgets[-1]
        self.size = 0

    @property
    def inputs(self) -> Tensor:
        return torch.cat(self._inputs)

    @property
    def targets(self) -> Tensor:
        return torch.cat(self._targets)

    @property
    def labels(self) -> Tensor:
        return torch.cat(self._labels)

    def extend(self, inputs: Tensor) -> Iterator[Theft]:
        """Ask inputs as far as the budget goes; yields a theft for every budget reached on the way."""
        while len(inputs) and self._waiting:
            asked, inputs = self._affordable(inputs)
            targets, labels = self._ask(asked)
            self._inputs.append(asked)
            self._targets.append(targets)
            self._labels.append(labels)
            yield from self._completed()

    def ask_again(self) -> Iterator[Theft]:
        """Ask the whole set once more, as far as the budget goes; its newest answers count."""
        left, done = self.inputs, 0
        self._targets, self._labels = [self.targets], [self.labels]
        while len(left) and self._waiting:
            asked, left = self._affordable(left)
            rows = slice(done, done + len(asked))
            self._targets[0][rows], self._labels[0][rows] = self._ask(asked)
            done += len(asked)
            yield from self._completed()

    def _affordable(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the next budget pays of them, and the rest."""
        count = min(len(inputs), self._waiting[0] - self.size)
        return inputs[:count], inputs[count:]

    def _ask(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Targets and labels."""
        answers = self._thief.query(inputs)
        self.size += len(inputs)
        self._thief.report("queries", self.size, self.goal)
        return self._attack.learn(answers), answers.labels

    def _completed(self) -> Iterator[Theft]:
        if self.size == self._waiting[0]:
            yield self._thief.steal(self._waiting.pop(0), self.inputs, self.targets)


@dataclass(frozen=True, kw_only=True, repr=False)
class StepJacobian(JacobianAttack):
    """One variant of each input, one signed step of ``step`` away."""

    step: float = 0.1
    """Length of the signed step, pixels in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.step <= 1, f"{self.name}:step={self.step}: expected a number above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, repr=False)
class TargetedJacobian(JacobianAttack):
    """Several variants of each input, each pulled towards a wrong class by projected signed steps.

    A variant stays within ``epsilon`` (L-infinity) of its input; each of ``iterations`` steps moves by
    1.85 epsilon / iterations.
    """

    seeds: int = 1000
    variants: int = 3
    """New inputs from each input, and no more than there are wrong classes to pull towards."""
    epsilon: float = 0.1
    """How far a variant may be from its input, in L-infinity, pixels in [0, 1]."""
    iterations: int = 8
    """Signed steps to a variant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.variants >= 1, f"{self.name}:variants={self.variants}: expected at least 1")
        require(0 < self.epsilon <= 1, f"{self.name}:epsilon={self.epsilon}: expected a number above 0 and at most 1")
        require(self.iterations >= 1, f"{self.name}:iterations={self.iterations}: expected at least 1")

    @abstractmethod
    def targets_for(self, logits: Tensor, labels: Tensor, variant: int, random: torch.Generator) -> Tensor:
        """Wrong classes to pull towards, int64 [N]; called before every step."""

    def craft(self, clone: Classifier, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """[N, V, C, H, W], where V is ``variants``, or the number of wrong classes if that is less."""
        with torch.no_grad():
            first = clone(inputs)
        variants = min(self.variants, first.shape[1] - 1)
        return torch.stack(
            [self._pull(clone, inputs, first, labels, variant, random) for variant in range(variants)], dim=1
        )

    def _pull(
        self,
        clone: Classifier,
        inputs: Tensor,
        first: Tensor,
        labels: Tensor,
        variant: int,
        random: torch.Generator,
    ) -> Tensor:
        moved = inputs
        for _ in range(self.iterations):
            wanted = self.targets_for(first, labels, variant, random).to(inputs.device)
            leaf = moved.detach().clone().requires_grad_()
            loss = F.cross_entropy(clone(leaf), wanted, reduction="sum")
            moved = signed_step(leaf, -loss, 1.85 * self.epsilon / self.iterations)
            moved = torch.clamp(moved, inputs - self.epsilon, inputs + self.epsilon).clamp(0, 1)
        return moved


def signed_step(leaf: Tensor, climbed: Tensor, step: float) -> Tensor:
    """clip(x + step sign(d climbed / d x)) to [0, 1], a new tensor."""
    (gradient,) = torch.autograd.grad(climbed, leaf)
    return (leaf.detach() + step * gradient.sign()).clamp(0, 1)
