"""BEST: hard-label extraction of robust models with uncertain examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks._data_free import cosine, needs_steps, soft_cross_entropy
from modelmoat.attacks._stream import Learner, Stream, StreamAttack
from modelmoat.attacks.base import ATTACKS, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.training import as_float, augment_batch, resolve_augment


@ATTACKS.register("best")
@dataclass(frozen=True, kw_only=True, repr=False)
class BEST(StreamAttack):
    """Asks points near the pool's images of which the clone is least certain, new ones in every epoch.

    From a random point within ``epsilon`` (L-infinity) of an image, ``iterations`` signed steps of ``step`` move the
    clone's answer towards uniform; the victim's answer to that point is learned at once. One query per image and
    epoch, of at most ``images`` images. The learning rate falls on a cosine over ``horizon`` queries.
    """

    images: int = 5000
    """Images of the pool that points are made from, at most."""
    batch_size: int = 128
    """Points asked and learned at a time."""
    epsilon: float = 8 / 255
    """How far a point may be from its image, in L-infinity, pixels in [0, 1]."""
    step: float = 2 / 255
    """Length of a signed step, in the same unit."""
    iterations: int = 10
    """Steps towards the clone's uncertainty."""
    clone_lr: float = 0.1
    """Highest learning rate of the clone."""
    horizon: int = 1_000_000
    """Queries over which the learning rate falls."""

    paper: ClassVar[str] = "Li et al., Extracting Robust Models with Uncertain Examples, ICLR 2023 (BEST)"
    knows: ClassVar[str] = (
        "input size, number of classes, some images (the paper's are from the victim's own distribution); "
        "not the victim's training data or architecture"
    )

    def __post_init__(self) -> None:
        needs_steps(self, "images", "iterations", "horizon")
        require(self.batch_size >= 2, f"{self.name}:batch_size={self.batch_size}: expected at least 2, for batch norm")
        for name in ("epsilon", "step"):
            value = getattr(self, name)
            require(0 < value <= 1, f"{self.name}:{name}={value}: expected a number above 0 and at most 1")
        require(0 < self.clone_lr < math.inf, f"{self.name}:clone_lr={self.clone_lr}: expected a positive number")

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Any budget goes: images come again in every epoch, each time as another point."""
        checked_budgets(budgets)
        require(pool_size >= 2, f"{self.name}: the pool has {pool_size} images; fix: give at least 2")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Epochs over the images, one step of the clone for every batch."""
        learner = Learner(thief, thief.new_clone("final"), lr=self.clone_lr, loss=soft_cross_entropy)
        rows = thief.pool_order()[: self.images]
        kind = resolve_augment(thief.fit.augment, *thief.pool.shape[:2])
        epoch = 0
        while True:
            random = generator(thief.seed, "attack", "epoch", epoch)
            for part in rows[torch.randperm(len(rows), generator=random)].split(self.batch_size):
                learner.scale_lr(cosine(min(1.0, stream.size / self.horizon)))
                images = as_float(augment_batch(thief.pool.batch(part), kind, random)).to(learner.device)
                yield from self.teach(stream, learner, self.uncertain(learner, images, random))
            epoch += 1

    def uncertain(self, learner: Learner, images: Tensor, random: torch.Generator) -> Tensor:
        """Points within epsilon of images [N, C, H, W] at which the clone's answer is close to uniform, in [0, 1]."""
        start = (2 * torch.rand(images.shape, generator=random) - 1).to(images.device) * self.epsilon
        moved = (images + start).clamp(0, 1)
        for _ in range(self.iterations):
            moved = moved + self.step * uncertainty_slope(learner, moved).sign()
            moved = moved.clamp(images - self.epsilon, images + self.epsilon).clamp(0, 1)
        return moved


def uncertainty_slope(learner: Learner, images: Tensor) -> Tensor:
    """Gradient of the cross-entropy between uniform and the clone's answer, downwards; shape of ``images``."""
    leaf = images.detach().requires_grad_()
    certain = -F.log_softmax(learner.gradient_logits(leaf), dim=1).mean(dim=1).sum()
    (slope,) = torch.autograd.grad(-certain, leaf)
    return slope
