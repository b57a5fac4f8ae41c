"""Jacobian-based augmentation towards random wrong classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks._jacobian import TargetedJacobian
from modelmoat.attacks.base import ATTACKS


@ATTACKS.register("jbda_tr")
@dataclass(frozen=True, kw_only=True, repr=False)
class JBDATR(TargetedJacobian):
    """Every variant is pulled towards a random wrong class, drawn anew at each step."""

    paper: ClassVar[str] = "Juuti et al., PRADA, EuroS&P 2019; Tang et al., ModelGuard, USENIX Security 2024 (JBDA-TR)"

    def targets_for(self, logits: Tensor, labels: Tensor, variant: int, random: torch.Generator) -> Tensor:
        """Uniform over the classes other than the label."""
        del variant
        classes = logits.shape[1]
        shift = torch.randint(1, classes, labels.shape, generator=random).to(labels.device)
        return (labels + shift) % classes
