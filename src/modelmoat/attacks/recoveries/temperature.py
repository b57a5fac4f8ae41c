"""Temperature: sharpen answers that a defense made flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks.recoveries.base import RECOVERIES, ROWS, Pointwise
from modelmoat.core.errors import require
from modelmoat.victims.answers import OutputKind


@RECOVERIES.register("temperature")
@dataclass(frozen=True, kw_only=True, repr=False)
class Temperature(Pointwise):
    """Rows y^(1/t) / sum y^(1/t): sharper for t below 1, flatter above, labels in the limit of 0.

    >>> Temperature(t=0.5).recover(torch.tensor([[0.6, 0.3, 0.1]]))
    tensor([[0.7826, 0.1957, 0.0217]])
    """

    t: float = 0.5
    """Below 1 rows become sharper, above 1 flatter."""

    paper: ClassVar[str] = "-"
    outputs: ClassVar[frozenset[OutputKind]] = ROWS
    knows: ClassVar[str] = "expects answers that were made flat, whichever the defense is"

    def __post_init__(self) -> None:
        require(0 < self.t < math.inf, f"temperature:t={self.t}: expected a positive number, such as 0.5")

    def recover(self, rows: Tensor) -> Tensor:
        """Sharpened rows, [N, K] -> [N, K]; zeros stay zeros."""
        return torch.softmax(rows.double().log() / self.t, dim=1).to(rows.dtype)
