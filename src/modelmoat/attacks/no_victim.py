"""The baseline that asks nobody: what an attacker has without a victim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from modelmoat.attacks._transfer import SentImages
from modelmoat.attacks.base import ATTACKS, Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError
from modelmoat.data import ImageSet
from modelmoat.models import Classifier
from modelmoat.training import FitResult, Images


@ATTACKS.register("no_victim")
@dataclass(frozen=True, kw_only=True, repr=False)
class NoVictim(Attack):
    """Sends nothing: trains on as many images as the budget, with the pool's own labels. A clone below it stole nothing.

    The images are those that ``knockoff`` sends with the same seed, and the training is the same. With ``labels=none`` clones
    stay as they start: untrained, or with the weights that were given.
    """

    labels: Literal["pool", "none"] = "pool"
    """Train on the pool's own labels, or leave clones as they start."""

    sends: ClassVar[bool] = False
    paper: ClassVar[str] = "none: what a theft has to beat"
    knows: ClassVar[str] = (
        "input size, number of classes, a pool of images with labels of its own; not the victim's answers"
    )

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Each image is used once."""
        checked_budgets(budgets, pool_size)

    def check_fit(self, pool: ImageSet, num_classes: int) -> None:
        """The pool's labels have to be labels of the victim's classes, as far as their number tells."""
        if self.labels == "pool" and pool.num_classes != num_classes:
            raise OptionError(
                f"{self.name}: pool '{pool.reference}' has {pool.num_classes} classes of its own, the victim {num_classes}; "
                "expected labels of the victim's classes; fix: no_victim:labels=none, or a pool of the victim's kind"
            )

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """A clone at each budget, and not one query."""
        self.check_fit(thief.pool, thief.victim.num_classes)
        order = thief.pool_order()
        maker = partial(self._start, thief) if self.labels == "none" else None
        for budget in checked_budgets(budgets, len(thief.pool)):
            rows = order[:budget]
            yield thief.steal(budget, SentImages(thief.pool, rows), thief.pool.labels[rows], maker)

    def _start(self, thief: Thief, images: Images, targets: Tensor, stage: str) -> tuple[Classifier, FitResult]:
        del images, targets, stage
        return thief.new_clone("final").eval(), FitResult(steps=0, epochs=0, precision="float32")
