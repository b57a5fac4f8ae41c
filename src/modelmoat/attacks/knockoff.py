"""KnockoffNets with random selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modelmoat.attacks.base import ATTACKS, Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.data import ImageSet
from modelmoat.victims import Answers


@ATTACKS.register("knockoff")
@dataclass(frozen=True, kw_only=True, repr=False)
class Knockoff(Attack):
    """Sends random images of a pool, each once, and trains a clone on the answers."""

    paper: ClassVar[str] = "Orekondy et al., Knockoff Nets, CVPR 2019"
    knows: ClassVar[str] = "input size, number of classes, a pool of images; not the victim's data or architecture"

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Each image is sent at most once."""
        checked_budgets(budgets, pool_size)

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """One query per image up to the largest budget; a clone at each."""
        budgets = checked_budgets(budgets, len(thief.pool))
        order = thief.pool_order()
        answers: list[Answers] = []
        spent = 0
        for budget in budgets:
            answers.append(thief.query_rows(order[spent:budget], goal=budgets[-1]))
            spent = budget
            targets = self.learn(Answers.join(answers))
            yield thief.steal(budget, _Rows(thief.pool, order[:budget]), targets)


class _Rows:
    """Some rows of a pool, read where they lie."""

    def __init__(self, pool: ImageSet, rows: Tensor) -> None:
        self._pool, self._rows = pool, rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Images at positions of the transfer set, uint8 [B, C, H, W]."""
        return self._pool.batch(self._rows[indices])
