"""Averaging: ask again, and noise cancels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from modelmoat.attacks.recoveries.base import RECOVERIES, Repeated
from modelmoat.training import augment_batch, resolve_augment
from modelmoat.victims import Answers
from modelmoat.victims.answers import OutputKind


@RECOVERIES.register("averaging")
@dataclass(frozen=True, kw_only=True, repr=False)
class Averaging(Repeated):
    """Asks each input ``copies`` times and learns the mean answer; every copy is a query.

    With ``over="augmentations"`` the copies are random crops (and flips, for color photographs), as in the training of
    clones, which also averages over defenses that answer the same input always in the same way. With ``over="repeats"``
    they are the input itself, which helps only where every answer draws anew: the mean of n has 1 / n of the variance.
    Published comparisons count one query for all copies.
    """

    over: Literal["augmentations", "repeats"] = "augmentations"
    """Ask random crops, or the input itself."""

    paper: ClassVar[str] = "Tang et al., ModelGuard, USENIX Security 2024 (smoothing); Orekondy et al., ICLR 2020"
    knows: ClassVar[str] = "expects answers that differ at random, and pays for several of each"

    def gives(self, kind: OutputKind) -> OutputKind:
        """Labels become shares of votes."""
        return "probabilities" if kind == "label" and self.copies > 1 else kind

    def spread(self, image: Tensor, random: torch.Generator) -> Tensor:
        """Copies of an image, [copies, C, H, W]."""
        return crops(image, self.copies, random) if self.over == "augmentations" else repeats(image, self.copies)

    def merge(self, answers: Answers, rows: Tensor) -> Answers:
        """The mean of each input's answers."""
        return Answers(self.gives(answers.kind), rows.mean(dim=1))


def repeats(image: Tensor, count: int) -> Tensor:
    """The image itself, [C, H, W] -> [count, C, H, W]."""
    return image.expand(count, *image.shape)


def crops(image: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Crops at random offsets after zero padding by an eighth, half of them flipped where clones are trained so."""
    channels, size = image.shape[:2]
    kind = resolve_augment("auto", channels, size)
    return augment_batch(repeats(image, count), "crop" if kind == "none" else kind, random)
