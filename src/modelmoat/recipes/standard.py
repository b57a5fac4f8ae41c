"""Standard training: cross-entropy to the labels, the row that other recipes are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from modelmoat.models import Classifier
from modelmoat.recipes.base import RECIPES, Recipe, TrainingJob
from modelmoat.training import FitResult, accuracy, fit


@RECIPES.register("standard")
@dataclass(frozen=True, kw_only=True, repr=False)
class Standard(Recipe):
    """Trains with cross-entropy to the labels and keeps the weights of the last epoch."""

    paper: ClassVar[str] = "-"

    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train on ``job.splits.train``; validation accuracy is shown after each epoch and selects nothing."""
        validation = job.splits.validation

        def evaluate(trained: nn.Module) -> str:
            return f"validation {accuracy(trained, validation, validation.labels):.1%}"

        return fit(
            network,
            job.splits.train,
            job.splits.train.labels,
            job.fit,
            seed=job.seed,
            device=job.device,
            checkpoint=job.checkpoint,
            fingerprint=job.fingerprint(self),
            evaluate=evaluate,
            progress=job.progress,
        )
