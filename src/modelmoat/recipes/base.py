"""What every recipe gets and gives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelmoat.core.files import digest_of
from modelmoat.core.registry import Method, Registry
from modelmoat.data import Splits
from modelmoat.models import Classifier
from modelmoat.training import FitResult, FitSettings, Progress

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One victim to train.

    Attributes:
        splits: disjoint images for training, validation and test.
        data: the reference that they were loaded from.
        data_seed: the seed that they were drawn by.
        arch: registered architecture.
        fit: optimizer, schedule, precision.
        seed: of every random draw.
        directory: where the artifact and, while training, the checkpoint go.
        device: where to train.
        progress: called after each step.
    """

    splits: Splits
    data: str
    data_seed: int
    arch: str
    fit: FitSettings
    seed: int
    directory: Path
    device: str = "cpu"
    progress: Progress | None = None

    @property
    def checkpoint(self) -> Path:
        """File to resume from."""
        return self.directory / CHECKPOINT_FILE

    def fingerprint(self, recipe: Recipe) -> str:
        """Hash of all that the trained weights depend on."""
        return digest_of(
            {
                "recipe": recipe.spec,
                "arch": self.arch,
                "fit": asdict(self.fit),
                "seed": self.seed,
                "train": self.splits.train.digest,
            }
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe(Method):
    """A way to train a victim."""

    @abstractmethod
    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train ``network`` in place; resumes from ``job.checkpoint`` where there is one."""


RECIPES: Registry[Recipe] = Registry("recipe", "modelmoat.recipes")


def create_recipe(name: str, **parameters: Any) -> Recipe:
    """Build a recipe by name."""
    return RECIPES.create(name, **parameters)


def parse_recipe(reference: str) -> Recipe:
    """Build a recipe from ``name:param=value,param=value``."""
    return RECIPES.parse(reference)
