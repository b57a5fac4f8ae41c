"""Transition-matrix correction: learn through the noise that a defense put on labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.attacks.recoveries._halves import judged_by_halves
from modelmoat.attacks.recoveries.base import RECOVERIES, Recovery
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import require
from modelmoat.training import Objective

_LEAST = 1e-8


@RECOVERIES.register("transition")
@dataclass(frozen=True, kw_only=True, repr=False)
class Transition(Recovery):
    """Estimates how the served label depends on the true one, and trains clones with the forward-corrected loss.

    T_ij is the share of answers with label j among inputs that a clone takes for class i. So that no clone judges what it
    was trained on, the transfer set is cut in two, and each half is judged by a clone of the other. Only the surest
    ``confident`` share of each class counts; a clone's own mistakes look like noise. The loss is the cross-entropy of the
    served answer to p T for the clone's answer p, so that the clone itself learns p. It helps against labels that are wrong
    at random by class, not against those that are wrong by input.
    """

    confident: float = 0.5
    """Share of each class, the surest, that the estimate counts."""

    changes_loss: ClassVar[bool] = True
    paper: ClassVar[str] = "Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017"
    knows: ClassVar[str] = "expects labels that are wrong at random, by class"

    def __post_init__(self) -> None:
        require(0 < self.confident <= 1, f"transition:confident={self.confident}: expected a share in (0, 1]")

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """The same answers, to be learned through the estimated matrix."""
        labels = transfer.targets if transfer.targets.dim() == 1 else transfer.targets.argmax(dim=1)
        judged, _ = judged_by_halves(transfer, transfer.targets, thief, stage)
        matrix = transition_matrix(judged, labels, self.confident)
        return replace(transfer, objective=forward_corrected(matrix))


def transition_matrix(judged: Tensor, labels: Tensor, confident: float = 1.0) -> Tensor:
    """T_ij = share of label j among inputs judged to be of class i, [K, K], rows on the simplex.

    Args:
        judged: answers of a model, [N, K].
        labels: served ones, int64 [N].
        confident: share of each class that counts, the surest.

    >>> judged = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    >>> transition_matrix(judged, torch.tensor([0, 0, 1, 1]))
    tensor([[0.6667, 0.3333],
            [0.0000, 1.0000]])
    """
    classes = judged.shape[1]
    sure, taken = judged.max(dim=1)
    matrix = torch.eye(classes)  # a class that nobody saw is taken to be served as it is
    for label in taken.unique().tolist():
        own = (taken == label).nonzero()[:, 0]
        surest = own[sure[own].argsort(descending=True, stable=True)[: math.ceil(confident * len(own))]]
        matrix[label] = labels[surest].bincount(minlength=classes) / len(surest)
    return matrix


def forward_corrected(matrix: Tensor) -> Objective:
    """Cross-entropy of served labels [B] or rows [B, K] to what a clone's answer becomes through T [K, K]."""

    def objective(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        answers = torch.softmax(network(inputs).float(), dim=1)
        seen = (answers @ matrix.to(answers)).clamp_min(_LEAST).log()
        if targets.dim() == 1:
            return F.nll_loss(seen, targets)
        return -(targets * seen).sum(dim=1).mean()

    return objective
