"""What the semi-supervised attacks share: a transfer set, and the rest of the pool to train on without asking."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.attacks._transfer import SentImages, TransferSet
from modelmoat.attacks._views import weak_kind
from modelmoat.attacks.base import Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError, require
from modelmoat.core.seeds import generator
from modelmoat.models import Classifier
from modelmoat.training import FitResult, Images, as_float


@dataclass(frozen=True, kw_only=True, repr=False)
class SemiSupervised(Attack):
    """Asks random images of a pool and trains on the answers and on the images that were not asked.

    Which are asked is as for ``knockoff`` with the same seed. Optimizer and schedule are those of all clones; they train
    for ``steps`` optimizer steps where the settings of clones ask for fewer.
    """

    steps: int = 2000

    knows: ClassVar[str] = "input size, number of classes, a pool of images; not the victim's data or architecture"

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"{self.name}:steps={self.steps}: expected at least 1")

    @property
    def own_training(self) -> bool:
        """Its loss is the attack."""
        return True

    @property
    def uses_rest(self) -> bool:
        """Whether it trains on images that were not asked."""
        return True

    @abstractmethod
    def make(
        self, thief: Thief, rest: UnaskedBatches, images: Images, targets: Tensor, stage: str
    ) -> tuple[Classifier, FitResult]:
        """Train a clone on answered images, and on the rest of the pool."""

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Each image is sent at most once, and one at least is left to train on."""
        largest = checked_budgets(budgets, pool_size)[-1]
        if largest == pool_size and self.uses_rest:
            raise OptionError(
                f"{self.name}: budget {largest:,} leaves none of the pool's {pool_size:,} images; it learns from images that "
                f"were not asked; fix: a budget of at most {pool_size - 1:,}, a larger pool, or attack knockoff"
            )

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """One query per image up to the largest budget; a clone at each."""
        self.check(budgets, len(thief.pool))
        order = thief.pool_order()

        def maker(images: Images, targets: Tensor, stage: str) -> tuple[Classifier, FitResult]:
            rest = UnaskedBatches(thief, order[transfer.size :], stage)
            return self.make(thief, rest, images, targets, stage)

        transfer = TransferSet(self, thief, checked_budgets(budgets), maker)
        yield from transfer.ask_rows(order)

    def min_steps(self, thief: Thief) -> int:
        """Least number of optimizer steps."""
        return max(self.steps, thief.fit.min_steps)


class UnaskedBatches:
    """Random batches of images that were not asked, drawn with replacement.

    What an epoch draws depends on the thief's seed, the stage and the number of the epoch alone.

    Args:
        thief: whose pool it is.
        rows: rows of the pool.
        stage: names the training.
    """

    def __init__(self, thief: Thief, rows: Tensor, stage: str) -> None:
        self._images = SentImages(thief.pool, rows)
        self._seed, self._stage, self._device = thief.seed, stage, thief.device
        self.weak = weak_kind(thief.fit.augment, *thief.pool.shape[:2])
        self.start_epoch(0)

    def start_epoch(self, number: int) -> None:
        """Seed the draws of an epoch."""
        self.random = generator(self._seed, "unasked", self._stage, number)

    def take(self, count: int) -> Tensor:
        """The next batch, float32 in [0, 1], [count, C, H, W]."""
        rows = torch.randint(len(self._images), (count,), generator=self.random)
        return as_float(self._images.batch(rows).to(self._device))


class MovingAverage:
    """Exponential moving average of a network's weights and statistics, itself a network.

    After t updates the decay is min(decay, (1 + t) / (10 + t)), so that the untrained start is soon forgotten.
    """

    def __init__(self, network: Classifier, decay: float) -> None:
        self.network: Classifier = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards what ``network`` is now."""
        self._updates += 1
        share = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        for mine, its in zip(_values(self.network), _values(network), strict=True):
            if mine.is_floating_point():
                mine.lerp_(its, share)
            else:
                mine.copy_(its)

    def finished(self) -> Classifier:
        """The average as an ordinary network."""
        return self.network.requires_grad_()


def _values(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def as_rows(targets: Tensor, classes: int) -> Tensor:
    """Labels [N] as one-hot rows [N, K]; rows pass through."""
    return targets if targets.is_floating_point() else F.one_hot(targets, classes).float()
