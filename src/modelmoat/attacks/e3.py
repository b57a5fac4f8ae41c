"""E3: queries with low-resolution training on log-domain targets, at a temperature chosen on held-out answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.attacks._transfer import SomeImages, TransferSet
from modelmoat.attacks._views import scaled_crops
from modelmoat.attacks.base import ATTACKS, Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import derive, generator
from modelmoat.models import Classifier
from modelmoat.training import FitResult, Images, TrainingDiverged, predict_logits

TEMPERATURES = (1.0, 4.0, 20.0, 100.0)


@ATTACKS.register("e3")
@dataclass(frozen=True, kw_only=True, repr=False)
class E3(Attack):
    """Random images of a pool, clones trained first on small crops, then on whole images, to tempered answers.

    The loss is T^2 KL(q || softmax(g / T)) for clone scores g and q = softmax(log p / T); for large T it tends to
    mean_k (g_k - log p_k)^2 / 2 of centered scores, so that it learns the tails of an answer p, which is what a defense or
    a rounded answer spoils. Unless it is given, T is therefore chosen: for each of 1, 4, 20 and 100 a clone is trained on
    all answers but the last ones, for a share of the epochs, and that which best gives these the served label is taken, then
    a clone is trained on all of them. Answers that are labels are learned by cross-entropy; there is nothing to choose.

    Parameters:
        temperature: T; chosen where it is none. The paper has 100 for pools like the victim's data, 1000 for others.
        held_out: share of the answers that the choice is made on.
        choice_epochs: share of the epochs of clones that are only trained to choose.
        low_epochs: share of the epochs with small crops; 0 for none.
        low_size: side of a crop as a share of the image's. A network that takes images of one size only gets crops that
            are scaled back to it.
        least_area: smallest part of an image in a crop.
        floor: smallest probability whose logarithm is believed.

    Each image is sent once, the clone's crops learn the answer to the whole image. The paper chooses images of ImageNet by
    the names of the victim's classes, and starts from weights trained on it; here the pool and the weights are given.
    """

    temperature: float | None = None
    held_out: float = 0.1
    choice_epochs: float = 1 / 3
    low_epochs: float = 0.8
    low_size: float = 0.75
    least_area: float = 0.5
    floor: float = 1e-7

    paper: ClassVar[str] = "Efficient and Effective Model Extraction (E3), ICASSP 2025"
    knows: ClassVar[str] = "input size, number of classes, a pool of images; not the victim's data or architecture"

    def __post_init__(self) -> None:
        given = self.temperature
        require(
            given is None or (given > 0 and math.isfinite(given)),
            f"{self.name}:temperature={given}: expected a positive number, such as 20, or none",
        )
        require(0 <= self.low_epochs <= 1, f"{self.name}:low_epochs={self.low_epochs}: expected a share in [0, 1]")
        require(0 < self.held_out < 1, f"{self.name}:held_out={self.held_out}: expected a share in (0, 1)")
        for key in ("choice_epochs", "low_size", "least_area"):
            value = getattr(self, key)
            require(0 < value <= 1, f"{self.name}:{key}={value}: expected a share in (0, 1]")
        require(0 < self.floor < 0.1, f"{self.name}:floor={self.floor}: expected a small number, such as 1e-7")

    @property
    def own_training(self) -> bool:
        """Two stages, in the log domain."""
        return True

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Each image is sent at most once."""
        checked_budgets(budgets, pool_size)

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """One query per image up to the largest budget; a clone at each."""
        budgets = checked_budgets(budgets, len(thief.pool))
        return TransferSet(self, thief, budgets, partial(self._make, thief)).ask_rows(thief.pool_order())

    def _make(self, thief: Thief, images: Images, targets: Tensor, stage: str) -> tuple[Classifier, FitResult]:
        temperature = self.temperature or self.choose(thief, images, targets, stage)
        return self._train(thief, images, targets, stage, temperature)

    def choose(self, thief: Thief, images: Images, targets: Tensor, stage: str) -> float:
        """The temperature whose clone gives most held-out images the served label, as far as so few can tell.

        Of those within one standard error of the best, the one whose clone gives these labels the least cross-entropy. One
        whose clone diverges is out.

        Args:
            thief: trains clones.
            images: N answered images, in random order; the last ``held_out`` of them are set aside.
            targets: what was answered, [N, K] or [N].
            stage: for the progress.
        """
        kept = len(targets) - math.ceil(self.held_out * len(targets))
        if kept < 1 or not targets.is_floating_point():
            return TEMPERATURES[0]
        train, test = SomeImages(images, torch.arange(kept)), SomeImages(images, torch.arange(kept, len(targets)))
        labels = targets[kept:].argmax(dim=1)
        shares, losses = [], []
        for temperature in TEMPERATURES:
            words = f"{stage}, trying T = {temperature:g}"
            try:
                clone, _ = self._train(thief, train, targets[:kept], words, temperature, share=self.choice_epochs)
            except TrainingDiverged:  # a large T squares the distance to logarithms, which a network may not stand
                shares.append(0.0)
                losses.append(math.inf)
                continue
            logits = predict_logits(clone, test)
            shares.append(float((logits.argmax(dim=1) == labels).float().mean()))
            losses.append(float(F.cross_entropy(logits, labels)))
        return TEMPERATURES[best_within_error(shares, losses, len(labels))]

    def _train(
        self, thief: Thief, images: Images, targets: Tensor, stage: str, temperature: float, *, share: float = 1.0
    ) -> tuple[Classifier, FitResult]:
        clone = thief.new_clone("final")
        epochs, steps = (max(1, round(share * count)) for count in (thief.fit.epochs, thief.fit.min_steps))
        settings = thief.changed(epochs=epochs, min_steps=steps)
        low = round(self.low_epochs * settings.total_epochs(len(images)))
        objective = TemperedCrops(self, clone, temperature, low, derive(thief.seed, "e3", stage))
        result = thief.train(
            clone,
            images,
            targets,
            stage,
            objective=objective,
            on_epoch=objective.start_epoch,
            epochs=epochs,
            min_steps=steps,
        )
        return clone, result


class TemperedCrops:
    """The loss of one batch, on small crops in the first epochs.

    Args:
        attack: sizes of crops.
        clone: what is trained.
        temperature: T.
        low: epochs with small crops.
        seed: of the crops.
    """

    def __init__(self, attack: E3, clone: Classifier, temperature: float, low: int, seed: int) -> None:
        self._attack, self._temperature, self._low, self._seed = attack, temperature, low, seed
        self._size = clone.input_shape[1]
        self._side = max(1, round(attack.low_size * self._size))
        self._scale_back = not takes(clone, self._side)
        self.start_epoch(0)

    def start_epoch(self, number: int) -> None:
        """Seed the crops of an epoch."""
        self._crops = number < self._low
        self._random = generator(self._seed, "crops", number)

    def __call__(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Tempered divergence, or cross-entropy where targets are labels."""
        small = self._crops and len(images) > 1  # batch norm cannot train on one image of few pixels
        logits = network(self.view(images) if small else images).float()
        if not targets.is_floating_point():
            return F.cross_entropy(logits, targets)
        return tempered_divergence(logits, targets, self._temperature, self._attack.floor)

    def view(self, images: Tensor) -> Tensor:
        """A random crop of each image at the small size, or scaled back where the network takes no other."""
        small = scaled_crops(images, self._side, self._attack.least_area, self._random)
        return F.interpolate(small, size=self._size, mode="bilinear") if self._scale_back else small


def tempered_divergence(logits: Tensor, answers: Tensor, temperature: float, floor: float) -> Tensor:
    """T^2 KL(softmax(log p / T) || softmax(g / T)), mean over rows.

    Args:
        logits: g, [N, K].
        answers: p, rows of probabilities [N, K].
        temperature: T.
        floor: probabilities below count as this.
    """
    wanted = F.log_softmax(answers.clamp_min(floor).log() / temperature, dim=1)
    given = F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * F.kl_div(given, wanted, reduction="batchmean", log_target=True)


def best_within_error(shares: Sequence[float], losses: Sequence[float], count: int) -> int:
    """Place of the least loss among shares within one standard error of the largest, each measured on ``count`` rows.

    >>> best_within_error([0.50, 0.62, 0.60], [1.0, 1.4, 1.2], 100)
    2
    """
    most = max(shares)
    least = most - math.sqrt(most * (1 - most) / count)
    return min((place for place, share in enumerate(shares) if share >= least), key=losses.__getitem__)


def takes(network: Classifier, side: int) -> bool:
    """Whether a network takes square images of another side than its own."""
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(network.mean.new_zeros(1, network.input_shape[0], side, side))
    except RuntimeError:
        return False
    finally:
        network.train(was_training)
    return True
