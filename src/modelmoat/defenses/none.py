"""No defense: the row that every other is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from modelmoat.defenses.base import DEFENSES, Defense


@DEFENSES.register("none")
@dataclass(frozen=True, kw_only=True, repr=False)
class NoDefense(Defense):
    """Serves clean answers."""

    paper: ClassVar[str] = "-"
    keeps_top1: ClassVar[bool] = True
    identity: ClassVar[dict[str, Any] | None] = {}

    @property
    def l1_bound(self) -> float:
        """Nothing changes."""
        return 0.0

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Return the rows as they are."""
        return probabilities
