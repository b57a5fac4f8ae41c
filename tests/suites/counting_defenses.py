"""False defenses that go by the number of a query: each looks good as long as nobody minds who counts, and from when."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from false_defenses import FalseDefense, drowned, false, far, other, poisoned, wrong_class
from torch import Tensor

from modelmoat.defenses import Preparation, PreparedModule
from modelmoat.defenses._checks import checked
from modelmoat.defenses._noise import input_seeds, mix, uniform
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers

_PATIENCE = 360  # queries, one more than there are benign ones


@dataclass(frozen=True, kw_only=True, repr=False)
class CountingDefense(FalseDefense):
    """Acts by the number of a query: of its account, of its call, or of all."""

    counts: ClassVar[str] = "account"
    stateful: ClassVar[bool] = True
    exportable: ClassVar[bool] = False

    def prepare(self, preparation: Preparation) -> PreparedModule:
        """With no query counted."""
        return Counted(self, preparation.predictor).ready(preparation.device)

    @abstractmethod
    def numbered(self, probabilities: Tensor, inputs: Tensor, numbers: Tensor) -> Tensor:
        """Served rows [N, K] of queries with ``numbers``, int64 [N], from 0."""


class Counted(PreparedModule):
    """A ready counting defense."""

    def __init__(self, method: CountingDefense, predictor: Predictor) -> None:
        super().__init__(method, predictor)
        self._counting = method
        self._asked: Counter[str] = Counter()

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Rows by number."""
        clean = checked(clean, self.spec, num_classes=self.num_classes)
        key = {"account": clean.account, "all": "all", "call": ""}[self._counting.counts]
        first, count = self._asked[key], len(clean.inputs)
        if key:
            self._asked[key] += count
        return self._counting.numbered(clean.probabilities, clean.inputs, torch.arange(first, first + count))


@false("fresh_tail")
@dataclass(frozen=True, kw_only=True, repr=False)
class FreshTail(CountingDefense):
    """The label stays just ahead of classes that are drawn anew for every query."""

    keeps_top1: ClassVar[bool] = True
    deterministic: ClassVar[bool] = False

    def numbered(self, probabilities: Tensor, inputs: Tensor, numbers: Tensor) -> Tensor:
        """[N, K]."""
        return drowned(probabilities, _fresh(inputs, numbers, self.seed))


@false("fresh_flips")
@dataclass(frozen=True, kw_only=True, repr=False)
class FreshFlips(CountingDefense):
    """Far images get a wrong label anew each time, with some probability."""

    share: float = 0.7

    deterministic: ClassVar[bool] = False

    def numbered(self, probabilities: Tensor, inputs: Tensor, numbers: Tensor) -> Tensor:
        """[N, K]."""
        seeds = _fresh(inputs, numbers, self.seed)
        flipped = far(inputs) & (uniform(seeds, 1, stream=1)[:, 0] < self.share)
        wrong = F.one_hot(other(probabilities, seeds), probabilities.shape[1]).to(probabilities)
        return torch.where(flipped[:, None], wrong, probabilities)


@false("quota")
@dataclass(frozen=True, kw_only=True, repr=False)
class Quota(CountingDefense):
    """After its quota an account gets sure wrong answers."""

    def numbered(self, probabilities: Tensor, inputs: Tensor, numbers: Tensor) -> Tensor:
        """[N, K]."""
        del inputs
        return poisoned(probabilities, numbers >= _PATIENCE, self.seed)


@false("ramp")
@dataclass(frozen=True, kw_only=True, repr=False)
class Ramp(CountingDefense):
    """The more an account asks, the more of its answers go to a wrong class."""

    def numbered(self, probabilities: Tensor, inputs: Tensor, numbers: Tensor) -> Tensor:
        """[N, K]."""
        del inputs
        share = (0.48 * numbers / _PATIENCE).clamp_max(1.0)[:, None]
        wrong = wrong_class(probabilities.argmax(dim=1), probabilities.shape[1], self.seed)
        return (1 - share) * probabilities + share * F.one_hot(wrong, probabilities.shape[1])


@false("forgetful")
@dataclass(frozen=True, kw_only=True, repr=False)
class Forgetful(Quota):
    """The same quota, but what it counts is gone with the next call."""

    counts: ClassVar[str] = "call"


@false("first_poisoned")
@dataclass(frozen=True, kw_only=True, repr=False)
class FirstPoisoned(CountingDefense):
    """The first queries after a start, whoever sends them, get sure wrong answers; users are measured later."""

    first: int = 240

    counts: ClassVar[str] = "all"

    def numbered(self, probabilities: Tensor, inputs: Tensor, numbers: Tensor) -> Tensor:
        """[N, K]."""
        del inputs
        return poisoned(probabilities, numbers < self.first, self.seed)


def _fresh(inputs: Tensor, numbers: Tensor, seed: int) -> Tensor:
    """A seed for each query, int64 [N]: another one for the same pixels later."""
    return mix(input_seeds(inputs, seed) + mix(numbers + 1))
