"""Recipes that also train on images unlike the victim's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.data import ImageSet, check_foreign, load_foreign, refuse_overlap
from modelmoat.data.foreign import PATCHES
from modelmoat.recipes.base import Recipe, TrainingJob
from modelmoat.training import as_float, augment_batch, resolve_augment


@dataclass(frozen=True, kw_only=True, repr=False)
class OodRecipe(Recipe):
    """A recipe with a second set of images, without labels and disjoint from the victim's.

    Parameters:
        ood: data reference without options, resized to the victim's input; or ``noise``, smoothed random pixels.
        ood_images: how many of them at most.
    """

    ood: str = PATCHES
    ood_images: int = 5000

    def __post_init__(self) -> None:
        check_foreign(f"{self.name}:ood", self.ood)
        require(self.ood_images >= 1, f"{self.name}:ood_images={self.ood_images}: expected at least 1, such as 5000")

    @property
    def uses_ood(self) -> bool:
        """Whether any term with a weight above zero looks at these images."""
        return True

    def load_ood(self, job: TrainingJob) -> ImageSet | None:
        """The images, drawn by the seed of the splits; raises `DataError` where one of them is the victim's own."""
        if not self.uses_ood:
            return None
        splits = job.splits
        images = load_foreign(self.ood, splits.train.shape, most=self.ood_images, seed=job.data_seed, owner=self.name)
        refuse_overlap(f"{self.name}:ood={self.ood}", images, [splits.train, splits.validation, splits.test])
        return images


class OodBatches:
    """Random batches of out-of-distribution images, drawn with replacement and augmented like the training images.

    What an epoch draws depends on the job's seed, the process and the number of the epoch alone.
    """

    def __init__(self, images: ImageSet, job: TrainingJob) -> None:
        self._images = images
        self._seed, self._device = job.share_seed, job.device
        self._augment = resolve_augment(job.fit.augment, images.shape[0], images.shape[1])
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Seed the draws of an epoch."""
        self._draws = generator(self._seed, "ood", epoch)

    def take(self, count: int) -> Tensor:
        """The next batch, float32 in [0, 1], [count, C, H, W]."""
        rows = torch.randint(len(self._images), (count,), generator=self._draws)
        batch = augment_batch(self._images.batch(rows).to(self._device), self._augment, self._draws)
        return as_float(batch).contiguous(memory_format=torch.channels_last)
