"""Rounding: fewer decimals, fewer secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.defenses.base import DEFENSES, Defense
from modelmoat.defenses.dial import Dial


@DEFENSES.register("rounding")
@dataclass(frozen=True, kw_only=True, repr=False)
class Rounding(Defense):
    """Rounds every entry to some decimals and renormalizes; a row of zeros becomes one-hot at its top class.

    Two classes may become equal, and then the first of them is the served top-1.

    >>> Rounding(decimals=1).perturb(torch.tensor([[0.62, 0.35, 0.03]]))
    tensor([[0.6000, 0.4000, 0.0000]])
    """

    decimals: int = 2
    """Digits that are kept behind the point."""

    paper: ClassVar[str] = "Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016"

    def __post_init__(self) -> None:
        require(0 <= self.decimals <= 6, f"rounding:decimals={self.decimals}: expected 0 to 6")

    def dial(self, num_classes: int) -> Dial:
        """``decimals``, from six to none."""
        del num_classes
        return Dial(parameter="decimals", weakest=6, strongest=0, whole=True)

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Rounded rows."""
        scale = 10.0**self.decimals
        rows = torch.round(probabilities.float() * scale) / scale
        total = rows.sum(dim=1, keepdim=True)
        one_hot = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).to(rows.dtype)
        return torch.where(total > 0, rows / total.clamp_min(1 / scale), one_hot).to(probabilities.dtype)
