"""Jacobian-based augmentation towards the most likely wrong classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks._jacobian import TargetedJacobian
from modelmoat.attacks.base import ATTACKS


@ATTACKS.register("jb_top3")
@dataclass(frozen=True, kw_only=True, repr=False)
class JBTop3(TargetedJacobian):
    """Variant i of an input is pulled towards the clone's i-th most likely wrong class."""

    paper: ClassVar[str] = "Orekondy et al., Prediction Poisoning, ICLR 2020 (jb-top3)"

    def targets_for(self, logits: Tensor, labels: Tensor, variant: int, random: torch.Generator) -> Tensor:
        """The ``variant``-th most likely class but the label."""
        del random
        wrong = logits.scatter(1, labels[:, None], -torch.inf)
        return wrong.topk(variant + 1, dim=1).indices[:, variant]
