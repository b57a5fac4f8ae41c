"""How to fit a network, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.training.precision import PrecisionChoice

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant"]
Augment = Literal["auto", "none", "crop", "crop_flip"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Optimization of one network; everything that the result depends on, but the data and the seed.

    The learning rate rises linearly over the first ``warmup`` share of all steps and then follows ``schedule``.
    Training lasts ``epochs`` epochs or ``min_steps`` steps, whichever is longer: a few hundred images in a few epochs
    would be too few steps to learn anything.
    """

    epochs: int = 20
    min_steps: int = 0
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    augment: Augment = "auto"
    precision: PrecisionChoice = "auto"

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs={self.epochs}: expected at least 1")
        require(self.min_steps >= 0, f"min_steps={self.min_steps}: expected 0 or more")
        require(self.batch_size >= 1, f"batch_size={self.batch_size}: expected at least 1")
        require(self.lr > 0 and math.isfinite(self.lr), f"lr={self.lr}: expected a positive number, such as 0.1")
        require(0 <= self.momentum < 1, f"momentum={self.momentum}: expected a number in [0, 1)")
        require(self.weight_decay >= 0, f"weight_decay={self.weight_decay}: expected 0 or more")
        require(0 <= self.warmup < 1, f"warmup={self.warmup}: expected a share in [0, 1)")
        choices = {"optimizer": Optimizer, "schedule": Schedule, "augment": Augment, "precision": PrecisionChoice}
        for name, kind in choices.items():
            given, known = getattr(self, name), get_args(kind)
            require(given in known, f"{name}={given}: expected one of {', '.join(known)}")

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps in one pass over ``rows`` images.

        The last batch may be smaller, but a single left-over image joins the batch before it: batch normalization
        cannot train on one.
        """
        whole, rest = divmod(rows, self.batch_size)
        return max(1, whole + (rest > 1))

    def batches(self, order: Tensor) -> list[Tensor]:
        """Cut one epoch's order of rows into batches.

        >>> import torch
        >>> [len(batch) for batch in FitSettings(batch_size=4).batches(torch.arange(9))]
        [4, 5]
        """
        steps = self.steps_per_epoch(len(order))
        first = [self.batch_size] * (steps - 1)
        return list(order.split([*first, len(order) - sum(first)]))

    def total_epochs(self, rows: int) -> int:
        """Passes over ``rows`` images, stretched where ``min_steps`` asks for more.

        >>> FitSettings(epochs=10, min_steps=500, batch_size=100).total_epochs(1000)
        50
        """
        return max(self.epochs, math.ceil(self.min_steps / self.steps_per_epoch(rows)))

    def lr_at(self, progress: float) -> float:
        """Learning rate at a share ``progress`` of all steps, in [0, 1].

        >>> FitSettings(lr=0.1, warmup=0.0).lr_at(0.5)
        0.05
        """
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        if self.schedule == "constant":
            return self.lr
        after = (progress - self.warmup) / (1 - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * after))
