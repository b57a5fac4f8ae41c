"""Top-k: only the k largest probabilities are served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.defenses.base import DEFENSES, Defense, Preparation
from modelmoat.defenses.dial import Dial
from modelmoat.victims import Responder


@DEFENSES.register("top_k")
@dataclass(frozen=True, kw_only=True, repr=False)
class TopK(Defense):
    """Keeps the k largest entries of a row, puts the rest at zero and renormalizes.

    Published comparisons leave the row short of one; an answer here is always a distribution.

    >>> TopK(k=2).perturb(torch.tensor([[0.6, 0.2, 0.15, 0.05]]))
    tensor([[0.7500, 0.2500, 0.0000, 0.0000]])
    """

    k: int = 3
    """Entries that are kept."""

    paper: ClassVar[str] = "Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016"
    keeps_top1: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.k >= 1, f"top_k:k={self.k}: expected at least 1")

    def dial(self, num_classes: int) -> Dial:
        """``k``, from all classes to one."""
        return Dial(parameter="k", weakest=num_classes, strongest=1, whole=True)

    def prepare(self, preparation: Preparation) -> Responder:
        """Ready as it is; raises `OptionError` where the victim has fewer than k classes."""
        self._check(preparation.predictor.num_classes)
        return self

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Rows with k entries; raises `OptionError` where the victim has fewer than k classes."""
        self._check(probabilities.shape[1])
        top = probabilities.argmax(dim=1, keepdim=True)
        marked = probabilities.scatter_add(1, top, torch.ones_like(probabilities[:, :1]))  # equal entries: argmax stays
        rows = torch.zeros_like(probabilities)
        chosen = marked.topk(self.k, dim=1).indices
        rows.scatter_(1, chosen, probabilities.gather(1, chosen))
        return rows / rows.sum(dim=1, keepdim=True)

    def _check(self, classes: int) -> None:
        require(self.k <= classes, f"top_k:k={self.k}: the victim has {classes} classes; expected at most that many")
