"""Jacobian-based augmentation towards the input's own label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks._jacobian import StepJacobian, signed_step
from modelmoat.attacks.base import ATTACKS
from modelmoat.models import Classifier


@ATTACKS.register("jb_self")
@dataclass(frozen=True, kw_only=True, repr=False)
class JBSelf(StepJacobian):
    """Like JBDA, but each input descends the clone's cross-entropy to its own label."""

    paper: ClassVar[str] = "Orekondy et al., Prediction Poisoning, ICLR 2020 (jb-self)"

    def craft(self, clone: Classifier, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """clip(x - step sign(d CE(x, label) / d x)), [N, 1, C, H, W]."""
        del random
        leaf = inputs.detach().clone().requires_grad_()
        return signed_step(leaf, -F.cross_entropy(clone(leaf), labels, reduction="sum"), self.step)[:, None]
