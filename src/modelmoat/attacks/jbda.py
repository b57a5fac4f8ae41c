"""Jacobian-based data augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks._jacobian import StepJacobian, signed_step
from modelmoat.attacks.base import ATTACKS
from modelmoat.models import Classifier


@ATTACKS.register("jbda")
@dataclass(frozen=True, kw_only=True, repr=False)
class JBDA(StepJacobian):
    """Jacobian-based data augmentation: one signed step per input, along the score of its label.

    ``rule="papernot"`` climbs the clone's score of the victim's label, as the paper writes. ``rule="away"`` climbs the
    clone's loss, as the code of Prediction Poisoning does under this name: the opposite direction.
    """

    rule: Literal["papernot", "away"] = "papernot"
    """Climb the clone's score of the label, as the paper writes, or its loss."""

    paper: ClassVar[str] = "Papernot et al., Practical Black-Box Attacks against Machine Learning, AsiaCCS 2017"

    def craft(self, clone: Classifier, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """clip(x + step sign(d score / d x)), [N, 1, C, H, W]."""
        del random
        leaf = inputs.detach().clone().requires_grad_()
        logits = clone(leaf)
        if self.rule == "papernot":
            climbed = logits.gather(1, labels[:, None]).sum()
        else:
            climbed = F.cross_entropy(logits, labels, reduction="sum")
        return signed_step(leaf, climbed, self.step)[:, None]
