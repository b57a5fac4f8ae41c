"""Static adversarial training: adversarial images are crafted once, and mixed with the clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.data import ImageSet
from modelmoat.models import Classifier
from modelmoat.recipes.base import RECIPES, Recipe, TrainingJob
from modelmoat.training import FitResult, as_float
from modelmoat.training.evasion import Ball, climb, log_odds, require_radius

_BATCH = 256
_LEVELS = 127  # of an int8


@RECIPES.register("adversarial_static")
@dataclass(frozen=True, kw_only=True, repr=False)
class AdversarialStatic(Recipe):
    """Trains on clean images and on images crafted once against a standard network; weaker than ``adversarial``.

    A standard network of the same architecture is trained first and attacked through its own gradients; the victim then
    learns from the mixture with plain cross-entropy. With 4 steps of 2/255, PGD moves by at most 0.031 from its random
    start, so beyond that epsilon it is far from its goal.

    Parameters:
        attack: ``fgsm`` (one step of length epsilon) or ``pgd``.
        epsilon: largest change of a pixel, in [0, 1]; 0.03 and 0.05 were published.
        steps: steps of PGD.
        step: length of a step of PGD.
        ratio: what the victim sees: 0 clean images, up to 1 that share of them replaced by their adversarial twins, 2 all
            clean and all adversarial ones (twice as many steps per epoch).
    """

    attack: Literal["fgsm", "pgd"] = "pgd"
    epsilon: float = 0.03
    steps: int = 4
    step: float = 2 / 255
    ratio: float = 2.0

    paper: ClassVar[str] = (
        "Khaled et al., Careful What You Wish For: on the Extraction of Adversarially Trained Models, PST 2022"
    )

    def __post_init__(self) -> None:
        require_radius(self.name, self.epsilon)
        require(self.steps >= 1, f"adversarial_static:steps={self.steps}: expected at least 1")
        require(self.step > 0, f"adversarial_static:step={self.step}: expected a positive number, such as 2/255")
        require(
            0 <= self.ratio <= 1 or self.ratio == 2,
            f"adversarial_static:ratio={self.ratio}: expected a share from 0 to 1, or 2 for all clean and all adversarial",
        )

    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train a standard network, craft on it, and train the victim on the mixture."""
        if self.ratio == 0:
            return job.fit_network(self, network)
        train = job.splits.train
        changes = self.craft(job.fit_twin(self, network, "standard"), train, job)
        mixture = Mixture(train, changes, self.epsilon, *self.picked(job))
        return job.fit_network(self, network, images=mixture, targets=mixture.labels)

    def picked(self, job: TrainingJob) -> tuple[Tensor, Tensor]:
        """Rows of the training images that the mixture is made of, and which of them are adversarial."""
        count = len(job.splits.train)
        if self.ratio == 2:
            return torch.arange(count).repeat(2), torch.arange(2 * count) >= count
        chosen = torch.randperm(count, generator=generator(job.seed, "mixture"))[: round(self.ratio * count)]
        return torch.arange(count), torch.zeros(count, dtype=torch.bool).index_fill(0, chosen, True)

    def craft(self, network: nn.Module, train: ImageSet, job: TrainingJob) -> Tensor:
        """Changes of all training images, int8 [N, C, H, W], in units of epsilon / 127."""
        network.eval()
        device, parts = next(network.parameters()).device, []
        batches = torch.arange(len(train)).split(_BATCH)
        for number, rows in enumerate(batches):
            images, labels = as_float(train.batch(rows)).to(device), train.labels[rows].to(device)
            ball = Ball(images, self.epsilon, "linf")
            if self.attack == "fgsm":
                start, steps, step = images, 1, self.epsilon
            else:
                random = generator(job.seed, "craft", int(rows[0]))
                start, steps, step = ball.random_point(random), self.steps, self.step
            moved = climb(network, ball, labels, start, steps=steps, step=step, climbed=log_odds)
            parts.append(in_levels(moved - images, self.epsilon).cpu())
            if job.progress:
                job.progress(number + 1, len(batches), "crafting")
        return torch.cat(parts)


class Mixture:
    """Clean and changed rows of one set of images, float32 in [0, 1], made when they are asked for.

    Args:
        source: the clean images.
        changes: int8 [N, C, H, W] in units of epsilon / 127, one for each image.
        epsilon: largest change of a pixel.
        rows: rows of ``source``, int64 [M].
        changed: which of them get their change, bool [M].
    """

    def __init__(self, source: ImageSet, changes: Tensor, epsilon: float, rows: Tensor, changed: Tensor) -> None:
        self._source, self._changes, self._epsilon = source, changes, epsilon
        self._rows, self._changed = rows, changed
        self.labels = source.labels[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Rows at ``indices``, [B, C, H, W]."""
        indices = indices.cpu()
        rows = self._rows[indices]
        changes = self._changes[rows] * self._changed[indices][:, None, None, None]
        return (as_float(self._source.batch(rows)) + changes * (self._epsilon / _LEVELS)).clamp_(0, 1)


def in_levels(changes: Tensor, epsilon: float) -> Tensor:
    """Changes of at most epsilon to the nearest of 255 levels, int8: no farther than epsilon, off by epsilon / 254.

    >>> in_levels(torch.tensor([0.03, -0.03, 0.0001]), 0.03)
    tensor([ 127, -127,    0], dtype=torch.int8)
    """
    return (changes * (_LEVELS / max(epsilon, 1e-12))).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
