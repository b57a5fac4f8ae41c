"""What every recipe gets and gives."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modelmoat.core.files import digest_of
from modelmoat.core.registry import Method, Registry
from modelmoat.core.seeds import derive
from modelmoat.data import ImageSet, Splits
from modelmoat.models import Classifier, ModelCard, create_network, save_model
from modelmoat.training import (
    ALONE,
    LOSS,
    Backward,
    FitResult,
    FitSettings,
    Images,
    Objective,
    Progress,
    Trained,
    World,
    accuracy,
    cross_entropy,
    fit,
    sum_backward,
)

CHECKPOINT_FILE = "checkpoint.safetensors"
LOG_FILE = "training.jsonl"
_LABEL_TERMS = (LOSS, "cross_entropy", "benign")
_DIVERGED = 10  # times the loss of a guess


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
        ood: out-of-distribution images, for recipes that ask for them with `Recipe.load_ood`.
        world: the processes that train it together, of `modelmoat.training.launched`.
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
    ood: ImageSet | None = None
    world: World = ALONE

    @property
    def checkpoints(self) -> list[Path]:
        """Files to resume from, of the victim and of other networks that its recipe trains before it."""
        return sorted(self.directory.glob(f"*{CHECKPOINT_FILE}"))

    @property
    def share_seed(self) -> int:
        """Seed of what a recipe draws for the images of a step: each process draws apart, for its own share of them."""
        return derive(self.seed, "process", self.world.rank) if self.world.rank else self.seed

    def fingerprint(self, recipe: Recipe) -> str:
        """Hash of all that the trained weights depend on.

        The number of processes is no part of it: for a loss that is a mean over images their weights agree up to rounding.
        Where each share counts by itself (batch norm, draws of a recipe), they differ as with another seed.
        """
        return digest_of(
            {
                "recipe": recipe.spec,
                "arch": self.arch,
                "fit": asdict(self.fit),
                "seed": self.seed,
                "train": self.splits.train.digest,
                **({"ood": self.ood.digest} if self.ood else {}),
                **recipe.start_digest(),
            }
        )

    def fit_network(
        self,
        recipe: Recipe,
        network: nn.Module,
        *,
        part: str = "",
        images: Images | None = None,
        targets: Tensor | None = None,
        objective: Objective = cross_entropy,
        backward: Backward = sum_backward,
        companions: Mapping[str, Trained] | None = None,
        on_epoch: Callable[[int], None] | None = None,
        watch: Callable[[float], None] | None = None,
    ) -> FitResult:
        """Fit a network on the training images; validation accuracy is shown and logged, and selects nothing.

        ``images`` and ``targets`` take the place of the training images and their labels.
        It resumes from a checkpoint in the job's folder and logs each epoch beside it. A network that a recipe trains
        before the victim gets a ``part``, a name of its own for these files, its seed and its progress.
        ``watch`` is told the validation accuracy after each epoch, and may raise to stop before it is saved. A loss on
        labels ten times that of a guess, log(K), stops it as well.
        """
        validation = self.splits.validation
        prefix, words_before = (f"{part}.", f"{part}, ") if part else ("", "")
        told = self.progress

        def progress(done: int, total: int, words: str) -> None:
            if told:
                told(done, total, words_before + words)

        def evaluate(trained: nn.Module) -> dict[str, float]:
            share = accuracy(trained, validation, validation.labels)
            if watch:
                watch(share)
            return {"validation_accuracy": share}

        return fit(
            network,
            self.splits.train if images is None else images,
            self.splits.train.labels if targets is None else targets,
            self.fit,
            seed=derive(self.seed, part) if part else self.seed,
            device=self.device,
            objective=objective,
            backward=backward,
            companions=companions,
            on_epoch=on_epoch,
            checkpoint=self.directory / f"{prefix}{CHECKPOINT_FILE}",
            fingerprint=self.fingerprint(recipe),
            log=self.directory / f"{prefix}{LOG_FILE}",
            evaluate=evaluate,
            progress=progress,
            world=self.world,
            limits=dict.fromkeys(_LABEL_TERMS, _DIVERGED * math.log(self.splits.train.num_classes)),
        )

    def fit_twin(self, recipe: Recipe, network: Classifier, part: str) -> Classifier:
        """A network like ``network`` but for its own first weights, trained by cross-entropy alone.

        ``part`` names it as in `fit_network`.
        """
        twin = create_network(
            self.arch,
            num_classes=network.num_classes,
            input_shape=network.input_shape,
            seed=derive(self.seed, part, "weights"),
            mean=network.mean.flatten().tolist(),
            std=network.std.flatten().tolist(),
        )
        self.fit_network(recipe, twin, part=part)
        return twin


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe(Method):
    """A way to train a victim."""

    @abstractmethod
    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train ``network`` in place, by ``job.fit_network``; resumes from a checkpoint where there is one."""

    def load_ood(self, job: TrainingJob) -> ImageSet | None:
        """The out-of-distribution images that this recipe trains with, disjoint from the victim's; none by default."""
        del job
        return None

    def start_digest(self) -> dict[str, str]:
        """Hashes of trained networks that this recipe starts from; none by default."""
        return {}

    def finish(self, network: Classifier, result: FitResult, job: TrainingJob, card: ModelCard) -> ModelCard:
        """Write the artifact and return its card; recipes whose victim is not ``network`` itself override this."""
        del result
        splits = job.splits
        metrics = {
            "validation_accuracy": accuracy(network, splits.validation, splits.validation.labels),
            "test_accuracy": accuracy(network, splits.test, splits.test.labels),
        }
        return save_model(job.directory, network, card.model_copy(update={"metrics": metrics}))


RECIPES: Registry[Recipe] = Registry("recipe", "modelmoat.recipes")


def create_recipe(name: str, **parameters: Any) -> Recipe:
    """Build a recipe by name."""
    return RECIPES.create(name, **parameters)


def parse_recipe(reference: str) -> Recipe:
    """Build a recipe from ``name:param=value,param=value``."""
    return RECIPES.parse(reference)
