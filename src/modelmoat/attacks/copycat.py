"""Copycat CNN: labels of images from elsewhere, with balanced classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks._transfer import SomeImages, TransferSet
from modelmoat.attacks.base import ATTACKS, Attack, Targets, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.models import Classifier
from modelmoat.training import FitResult, Images


@ATTACKS.register("copycat")
@dataclass(frozen=True, kw_only=True, repr=False)
class Copycat(Attack):
    """Sends random images of a pool and trains on their labels, repeating images of rare labels.

    With ``balance`` every label that came back gets as many rows as the most frequent one, by repeating its images; what is
    repeated is trained on, not sent again. Without it, this is ``knockoff:targets=label``. The paper starts from weights
    trained on ImageNet.
    """

    targets: Targets = "label"
    balance: bool = True
    """Repeat images of rare labels until all labels are as frequent."""

    paper: ClassVar[str] = "Correia-Silva et al., Copycat CNN, IJCNN 2018"
    knows: ClassVar[str] = "input size, number of classes, a pool of images; not the victim's data or architecture"

    @property
    def own_training(self) -> bool:
        """Rows are repeated by label before the training."""
        return self.balance

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Each image is sent at most once."""
        checked_budgets(budgets, pool_size)

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """One query per image up to the largest budget; a clone at each."""
        budgets = checked_budgets(budgets, len(thief.pool))
        maker = partial(self._make, thief) if self.balance else None
        return TransferSet(self, thief, budgets, maker).ask_rows(thief.pool_order())

    def _make(self, thief: Thief, images: Images, targets: Tensor, stage: str) -> tuple[Classifier, FitResult]:
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        rows = balanced_rows(labels)
        return thief.make(SomeImages(images, rows), targets[rows], stage)


def balanced_rows(labels: Tensor) -> Tensor:
    """All rows, then those of rarer labels again, in their order, until every label is as frequent as the first.

    >>> balanced_rows(torch.tensor([7, 7, 2, 7])).tolist()
    [0, 1, 2, 3, 2, 2]
    """
    most = int(labels.bincount().max())
    extra = []
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        extra.append(own.repeat(-(-most // len(own)))[len(own) : most])
    return torch.cat([torch.arange(len(labels)), *extra])
