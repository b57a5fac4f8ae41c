"""Reverse sigmoid: push confident entries down and small ones up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.defenses.base import DEFENSES, Defense
from modelmoat.defenses.dial import Dial

Variant = Literal["textbook", "clipped", "odds_clamped"]
_EDGE = 1e-7


@DEFENSES.register("reverse_sigmoid")
@dataclass(frozen=True, kw_only=True, repr=False)
class ReverseSigmoid(Defense):
    r"""Subtracts beta (sigmoid(gamma logit(y)) - 1/2) from every entry y and renormalizes.

    Published code disagrees on the formula, so results under this name are comparable only with the variant beside them:

    - ``textbook``: as written above, y clamped to [1e-7, 1 - 1e-7] inside the logit. Needs beta <= 1, where no entry
      can become negative.
    - ``clipped``: the same for any beta, negative entries clipped to zero before renormalizing (as in ART).
    - ``odds_clamped``: the odds y / (1 - y) are capped at 1, so that a class above one half is not perturbed at all (as
      in the code of GRAD2 and of the efficient defense).

    It can change the top-1 of flat rows. With K classes each tail class gains up to beta / 2 before renormalizing:
    choose beta of the order of 2 / K.

    >>> ReverseSigmoid(beta=0.6, gamma=0.2).perturb(torch.tensor([[0.9, 0.05, 0.03, 0.02]]))
    tensor([[0.6776, 0.1102, 0.1057, 0.1065]])
    """

    beta: float = 0.2
    """Amplitude; 0 changes nothing."""
    gamma: float = 0.2
    """Slope of the sigmoid."""
    variant: Variant = "textbook"
    """Which of the published formulas."""

    paper: ClassVar[str] = "Lee et al., Defending Against Neural Network Model Stealing Attacks, SPW 2019"
    identity: ClassVar[dict[str, Any] | None] = {"beta": 0.0}

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"reverse_sigmoid:beta={self.beta}: expected 0 or more")
        require(self.gamma > 0, f"reverse_sigmoid:gamma={self.gamma}: expected a positive number")
        require(
            self.variant == "clipped" or self.beta <= 1,
            f"reverse_sigmoid:beta={self.beta}: expected at most 1, where entries stay positive; "
            "fix: a smaller beta, or variant=clipped",
        )

    def dial(self, num_classes: int) -> Dial:
        """``beta``; up to 1 unless entries may be clipped."""
        del num_classes
        return Dial(
            parameter="beta", weakest=1e-3, strongest=100.0 if self.variant == "clipped" else 1.0, logarithmic=True
        )

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Perturbed rows."""
        y = probabilities.float()
        clamped = y.clamp(_EDGE, 1 - _EDGE)
        log_odds = torch.logit(clamped)
        if self.variant == "odds_clamped":
            log_odds = log_odds.clamp_max(0.0)
        rows = y - self.beta * (torch.sigmoid(self.gamma * log_odds) - 0.5)
        rows = rows.clamp_min(0.0)
        return (rows / rows.sum(dim=1, keepdim=True)).to(probabilities.dtype)
