"""Defenses that only look good: each fools an attacker who takes answers as they come, and costs its users next to nothing.

Their names exist in tests alone (see ``conftest.py``). An honest attacker knows the method and not its ``seed``. Those
here act on rows and inputs; those that count are in ``counting_defenses.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.defenses import Defense
from modelmoat.defenses._noise import input_seeds, uniform

FALSE_DEFENSES: dict[str, type[Defense]] = {}

_SURE = 0.99
_BLACK = 0.25
_DROWNING = 0.5
_AHEAD = 1e-3


def false(name: str) -> Callable[[type[Defense]], type[Defense]]:
    """Class decorator that names a false defense."""

    def add(cls: type[Defense]) -> type[Defense]:
        cls.name = f"false_{name}"
        FALSE_DEFENSES[cls.name] = cls
        return cls

    return add


@dataclass(frozen=True, kw_only=True, repr=False)
class FalseDefense(Defense):
    """Acts on rows and inputs; ``seed`` is the defender's secret."""

    seed: int = 0

    paper: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})


@false("noisy_tail")
@dataclass(frozen=True, kw_only=True, repr=False)
class NoisyTail(FalseDefense):
    """The label stays just ahead of several classes that the pixels' hash draws."""

    keeps_top1: ClassVar[bool] = True

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """[N, K]."""
        return drowned(probabilities, input_seeds(inputs, self.seed))


@false("decoy")
@dataclass(frozen=True, kw_only=True, repr=False)
class Decoy(FalseDefense):
    """The label stays just ahead of a wrong class of its own."""

    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]."""
        top = probabilities.argmax(dim=1)
        return _tied(top, wrong_class(top, probabilities.shape[1], self.seed), probabilities)


@false("attractor")
@dataclass(frozen=True, kw_only=True, repr=False)
class Attractor(FalseDefense):
    """The label stays just ahead of one class that is the same in all answers."""

    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]; that class itself is answered surely."""
        top = probabilities.argmax(dim=1)
        return _tied(top, torch.full_like(top, self.seed % probabilities.shape[1]), probabilities)


@false("near_tie")
@dataclass(frozen=True, kw_only=True, repr=False)
class NearTie(FalseDefense):
    """The label stays just ahead of the runner-up."""

    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]."""
        first, second = probabilities.topk(2, dim=1).indices.unbind(dim=1)
        return _tied(
            probabilities.argmax(dim=1),
            torch.where(second == probabilities.argmax(dim=1), first, second),
            probabilities,
        )


@false("reversed_tail")
@dataclass(frozen=True, kw_only=True, repr=False)
class ReversedTail(FalseDefense):
    """The label stays just ahead of the class that is least likely."""

    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]."""
        return _tied(probabilities.argmax(dim=1), probabilities.argmin(dim=1), probabilities)


@false("hot")
@dataclass(frozen=True, kw_only=True, repr=False)
class Hot(FalseDefense):
    """Temperature so high that answers are flat; their order stays."""

    temperature: float = 3000.0

    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]."""
        return torch.softmax(probabilities.clamp_min(1e-30).log() / self.temperature, dim=1)


@false("ranks")
@dataclass(frozen=True, kw_only=True, repr=False)
class Ranks(FalseDefense):
    """Entries at equal small steps around uniform; their order stays, and nothing else."""

    step: float = 1e-4

    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]."""
        classes = probabilities.shape[1]
        ranks = probabilities.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return 1 / classes + self.step * ((classes - 1) / 2 - ranks)


@false("transition")
@dataclass(frozen=True, kw_only=True, repr=False)
class TransitionMatrix(FalseDefense):
    """Rows times a matrix that gives nearly half of each class to another one."""

    share: float = 0.47

    def perturb(self, probabilities: Tensor) -> Tensor:
        """[N, K]."""
        classes = probabilities.shape[1]
        wrong = F.one_hot(wrong_class(torch.arange(classes), classes, self.seed), classes)
        matrix = (1 - self.share) * torch.eye(classes) + self.share * wrong
        return probabilities @ matrix.to(probabilities)


@false("far_gate")
@dataclass(frozen=True, kw_only=True, repr=False)
class FarGate(FalseDefense):
    """Images that are hardly black anywhere get a sure wrong answer."""

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """[N, K]."""
        return poisoned(probabilities, far(inputs), self.seed)


@false("visible_gate")
@dataclass(frozen=True, kw_only=True, repr=False)
class VisibleGate(FalseDefense):
    """Unsure answers to far images become flat ones of a wrong label."""

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """[N, K]."""
        classes = probabilities.shape[1]
        garbage = F.one_hot(wrong_class(probabilities.argmax(dim=1), classes, self.seed), classes)
        flat = 0.5 / classes + 0.5 * garbage
        return torch.where(_suspect(probabilities, inputs)[:, None], flat, probabilities)


@false("constant_gate")
@dataclass(frozen=True, kw_only=True, repr=False)
class ConstantGate(FalseDefense):
    """Unsure answers to far images become one and the same answer."""

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """[N, K]."""
        classes = probabilities.shape[1]
        constant = 0.4 / classes + 0.6 * F.one_hot(torch.tensor(self.seed % classes), classes)
        return torch.where(_suspect(probabilities, inputs)[:, None], constant, probabilities)


@false("half_swapped")
@dataclass(frozen=True, kw_only=True, repr=False)
class HalfSwapped(FalseDefense):
    """First and last class change places for half of the far images, which their pixels' hash draws."""

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """[N, K]."""
        half = uniform(input_seeds(inputs, self.seed), 1)[:, 0] < 0.5
        ends = torch.stack([probabilities.argmax(dim=1), probabilities.argmin(dim=1)], dim=1)
        swapped = probabilities.scatter(1, ends, probabilities.gather(1, ends.flip(1)))
        return torch.where((far(inputs) & half)[:, None], swapped, probabilities)


def far(inputs: Tensor) -> Tensor:
    """Whether images are hardly black anywhere, as nearly half of a digit is, bool [N]."""
    return (inputs < 1e-3).float().flatten(1).mean(dim=1) < _BLACK


def _suspect(rows: Tensor, inputs: Tensor) -> Tensor:
    return far(inputs) & (rows.amax(dim=1) < _SURE)


def other(rows: Tensor, seeds: Tensor) -> Tensor:
    """A class other than the top one, drawn by seeds [N]."""
    classes = rows.shape[1]
    step = 1 + (uniform(seeds, 1)[:, 0] * (classes - 1)).long().clamp_max(classes - 2)
    return (rows.argmax(dim=1) + step) % classes


def wrong_class(labels: Tensor, classes: int, seed: int) -> Tensor:
    """The wrong class of each label, always the same."""
    return (labels + 1 + seed % (classes - 1)) % classes


def _tied(top: Tensor, second: Tensor, like: Tensor) -> Tensor:
    """Rows with half at each of two classes [N], the first one just ahead."""
    classes = like.shape[1]
    first, other = (F.one_hot(labels, classes).to(like) for labels in (top, second))
    return (0.5 + _AHEAD) * first + (0.5 - _AHEAD) * other


def drowned(rows: Tensor, seeds: Tensor) -> Tensor:
    """The top class of rows [N, K] just ahead of half of the others, drawn by seeds [N]."""
    classes = rows.shape[1]
    drawn = (uniform(seeds, classes, stream=2) < _DROWNING).to(rows)
    noisy = drawn.scatter(1, rows.argmax(dim=1, keepdim=True), 1 + _AHEAD)
    return noisy / noisy.sum(dim=1, keepdim=True)


def poisoned(rows: Tensor, where: Tensor, seed: int) -> Tensor:
    """Rows, sure of a wrong class where [N] says so."""
    wrong = wrong_class(rows.argmax(dim=1), rows.shape[1], seed)
    return torch.where(where[:, None], F.one_hot(wrong, rows.shape[1]).to(rows), rows)
