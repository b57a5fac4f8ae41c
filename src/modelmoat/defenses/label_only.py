"""Label only: the answer is the most likely class and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from modelmoat.defenses.base import DEFENSES, Defense


@DEFENSES.register("label_only")
@dataclass(frozen=True, kw_only=True, repr=False)
class LabelOnly(Defense):
    """Serves a one-hot row at the most likely class; the floor under every defense that keeps labels.

    >>> import torch
    >>> LabelOnly().perturb(torch.tensor([[0.2, 0.5, 0.3]]))
    tensor([[0., 1., 0.]])
    """

    paper: ClassVar[str] = "Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016"
    keeps_top1: ClassVar[bool] = True

    def perturb(self, probabilities: Tensor) -> Tensor:
        """One-hot rows; the first of equal classes wins."""
        return F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).to(probabilities.dtype)
