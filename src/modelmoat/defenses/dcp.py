"""DCP: reverse-sigmoid noise, but only on answers of low confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.defenses._checks import keep_top1
from modelmoat.defenses.base import DEFENSES, Defense
from modelmoat.defenses.dial import Dial

_ODDS_EDGE = 1e-12
_EDGE = 1e-7


@DEFENSES.register("dcp")
@dataclass(frozen=True, kw_only=True, repr=False)
class Dcp(Defense):
    r"""Perturbs answers of confidence under ``beta`` by a reverse sigmoid, without any further network.

    With m = max y, the gate a = sigmoid(nu (beta - m)) and r_k = beta (sigmoid(gamma logit(y_k)) - 1/2), it serves
    (y - a r) / sum(y - a r), negative entries clipped to zero first. So ``beta`` is threshold and amplitude at once, and
    the order of tail classes is inverted.

    ``clamp`` says what is kept from infinity inside the logit:

    - ``odds``, as in the authors' code: y / (1 - y) in [1e-12, 1]. Classes above one half are not perturbed, all others
      are raised.
    - ``prob``, as in the reverse sigmoid's paper: y itself, so that a dominant class is also lowered.

    ``keep_top1`` is not in the paper: where the top class changed, its entry and the new top one are swapped.

    >>> rows = torch.tensor([[0.9, 0.08, 0.02], [0.4, 0.35, 0.25]])
    >>> Dcp(beta=0.5).perturb(rows)
    tensor([[0.9000, 0.0800, 0.0200],
            [0.3895, 0.3471, 0.2634]])
    """

    beta: float = 0.5
    """Confidence below which answers change, and by how much; 0 changes nothing."""
    gamma: float = 0.2
    """Slope of the reverse sigmoid."""
    nu: float = 1000.0
    """Steepness of the gate."""
    clamp: Literal["odds", "prob"] = "odds"
    """What is kept from infinity inside the logit."""
    keep_top1: bool = False
    """Swap entries back where the top class changed; not in the paper."""

    paper: ClassVar[str] = (
        "Khaled et al., Efficient Defense Against Model Stealing Attacks on CNNs, ICMLA 2023, arXiv:2309.01838"
    )
    identity: ClassVar[dict[str, Any] | None] = {"beta": 0.0}

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"dcp:beta={self.beta}: expected 0 or more, such as 0.5")
        require(self.gamma > 0, f"dcp:gamma={self.gamma}: expected a positive number, such as 0.2")
        require(self.nu > 0, f"dcp:nu={self.nu}: expected a positive number, such as 1000")
        self._declare(keeps_top1=self.keep_top1)

    def dial(self, num_classes: int) -> Dial:
        """``beta``; beyond 1 the gate is always open."""
        del num_classes
        return Dial(parameter="beta", weakest=1e-3, strongest=100.0, logarithmic=True)

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Perturbed rows, [N, K] -> [N, K]."""
        if self.beta == 0:
            return probabilities
        y = probabilities.float()
        gate = torch.sigmoid(self.nu * (self.beta - y.amax(dim=1, keepdim=True)))
        raised = self.beta * (torch.sigmoid(self.gamma * self._log_odds(y)) - 0.5)
        rows = (y - gate * raised).clamp_min(0.0)
        rows = rows / rows.sum(dim=1, keepdim=True)
        rows = keep_top1(rows, y.argmax(dim=1, keepdim=True)) if self.keep_top1 else rows
        return rows.to(probabilities.dtype)

    def _log_odds(self, y: Tensor) -> Tensor:
        if self.clamp == "odds":
            return torch.log((y / (1 - y)).clamp(_ODDS_EDGE, 1.0))
        return torch.logit(y.clamp(_EDGE, 1 - _EDGE))
