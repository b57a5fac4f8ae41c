"""Adversarial training: every batch is attacked before the network learns from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.core.seeds import derive, generator
from modelmoat.models import Classifier
from modelmoat.recipes.base import RECIPES, Recipe, TrainingJob
from modelmoat.training import FitResult
from modelmoat.training.evasion import Ball, Norm, climb, log_odds, require_radius


@RECIPES.register("adversarial")
@dataclass(frozen=True, kw_only=True, repr=False)
class Adversarial(Recipe):
    """Trains on the worst images that PGD finds within epsilon, anew for every batch (min-max training).

    Images are attacked by the network as it stands, in evaluation mode, from a random start; the last point counts.
    Training takes about ``steps`` + 1 times the time of the standard recipe.

    Parameters:
        epsilon: largest change, in pixels of [0, 1]; at 0 this is standard training.
        norm: what the change is measured in.
        steps: steps of the attack.
        step: length of one; 2.5 epsilon / steps where none, which is the usual 2/255 for 8/255 in 10 steps.
    """

    epsilon: float = 8 / 255
    norm: Norm = "linf"
    steps: int = 10
    step: float | None = None

    paper: ClassVar[str] = (
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; as a victim: Khaled et "
        "al., Careful What You Wish For, PST 2022"
    )

    def __post_init__(self) -> None:
        require_radius(self.name, self.epsilon, self.norm)
        require(self.steps >= 1, f"adversarial:steps={self.steps}: expected at least 1")
        require(
            self.step is None or self.step > 0,
            f"adversarial:step={self.step}: expected a positive number, or none for 2.5 epsilon / steps",
        )

    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Attack each batch, then learn from it."""
        starts = generator(job.share_seed, "starts", 0)

        def on_epoch(number: int) -> None:
            starts.manual_seed(derive(job.share_seed, "starts", number))

        def objective(trained: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            worst = self.attack(trained, images, targets, starts)
            return F.cross_entropy(trained(worst).float(), targets)

        return job.fit_network(self, network, objective=objective, on_epoch=on_epoch)

    def attack(self, network: nn.Module, images: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """Images [B, C, H, W] moved uphill for the network, which is left in training mode."""
        ball = Ball(images, self.epsilon, self.norm)
        step = 2.5 * self.epsilon / self.steps if self.step is None else self.step
        network.eval()
        start = ball.random_point(random)
        moved = climb(network, ball, labels, start, steps=self.steps, step=step, climbed=log_odds)
        network.train()
        return moved
