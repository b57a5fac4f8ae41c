"""Data at hand: few images of the victim's own kind, asked as they are and in mixtures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from modelmoat.attacks._transfer import TransferSet
from modelmoat.attacks._views import weak_kind
from modelmoat.attacks.base import ATTACKS, Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError, require
from modelmoat.core.seeds import derive, generator
from modelmoat.training import as_float, augment_batch

_BATCH = 256


@ATTACKS.register("data_at_hand")
@dataclass(frozen=True, kw_only=True, repr=False)
class DataAtHand(Attack):
    """Sends all of a small pool of the victim's own kind, then mixtures of its images, as far as the budget goes.

    A mixture is a x + (1 - a) x' of two random images, a ~ Beta(``alpha``, ``alpha``), shifted at random, and mirrored where
    clones are trained so. Every one counts as a query.

    Parameters:
        alpha: of the mixing shares.
        share: what the attacker holds, as a share of the victim's training set: that many of its validation images, which
            it was not trained on. 0 takes the images of the pool, such as ``--pool REF,pool=0.2,split=pool,subset=1%``.
    """

    alpha: float = 1.0
    share: float = 0.0

    paper: ClassVar[str] = "none: the attacker of Shafran et al., Beyond Labeling Oracles, TMLR 2024, with mixtures"
    knows: ClassVar[str] = (
        "input size, number of classes, a few images like those that the victim was trained on; not the victim's training "
        "images or architecture"
    )

    def __post_init__(self) -> None:
        require(
            self.alpha > 0 and math.isfinite(self.alpha),
            f"{self.name}:alpha={self.alpha}: expected a positive number, such as 1",
        )
        require(0 <= self.share <= 1, f"{self.name}:share={self.share}: expected a share in [0, 1], such as 0.01")

    @property
    def own_kind(self) -> float:
        """``share``."""
        return self.share

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Mixtures need two images; all that is sent beyond the pool is mixed."""
        largest = checked_budgets(budgets)[-1]
        if largest > pool_size < 2:
            raise OptionError(
                f"{self.name}: the pool has {pool_size} image, and a mixture needs 2; fix: a larger pool, or --budget 1"
            )

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """Spend each budget exactly; a clone at each."""
        self.check(budgets, len(thief.pool))
        transfer = TransferSet(self, thief, checked_budgets(budgets))
        yield from transfer.ask_rows(thief.pool_order())
        number = 0
        while not transfer.complete:
            yield from transfer.ask_made(transfer.unsent(self.mixtures(thief, number)))
            number += 1

    def mixtures(self, thief: Thief, number: int) -> Tensor:
        """The ``number``-th batch of mixtures, uint8 [256, C, H, W]."""
        random = generator(thief.seed, "mixtures", number)
        rows = torch.randint(len(thief.pool), (2, _BATCH), generator=random)
        first, second = (as_float(thief.pool.batch(part)) for part in rows)
        draws = np.random.default_rng(derive(thief.seed, "shares", number)).beta(self.alpha, self.alpha, _BATCH)
        share = torch.from_numpy(draws).float()[:, None, None, None]
        kind = weak_kind(thief.fit.augment, *thief.pool.shape[:2])
        mixed = augment_batch(share * first + (1 - share) * second, kind, random)
        return mixed.mul(255).round().to(torch.uint8).contiguous()
