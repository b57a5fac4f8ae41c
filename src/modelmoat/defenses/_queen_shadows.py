"""QUEEN's shadow models: small imitations of a clone at the start of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelmoat.core.seeds import derive
from modelmoat.defenses._noise import uniform
from modelmoat.defenses._surrogate import blank_network, network_facts, random_network
from modelmoat.defenses.base import Preparation
from modelmoat.models import Classifier, Predictor
from modelmoat.training import FitSettings, fit

SHADOW_FIT = FitSettings(
    batch_size=256, lr=0.01, momentum=0.9, nesterov=False, weight_decay=1e-4, schedule="constant", warmup=0.0
)
Space = Literal["probabilities", "logits"]


def draw_members(seeds: Tensor, count: int, drawn: int) -> Tensor:
    """Choose ``drawn`` of ``count`` members for each row by its seed [N], without replacement; bool [N, count].

    >>> draw_members(torch.tensor([3, 3]), 4, 2).sum(dim=1)
    tensor([2, 2])
    """
    chosen = uniform(seeds, count).topk(drawn, dim=1).indices
    return torch.zeros(len(seeds), count, dtype=torch.bool, device=seeds.device).scatter_(1, chosen, True)


class Shadows(nn.Module):
    """S classifiers; a query sees the mean of some of them."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._facts = network_facts(members[0])

    def facts(self) -> dict[str, Any]:
        """What `blank_shadows` builds them again from."""
        return dict(self._facts)

    def mean(self, inputs: Tensor, chosen: Tensor, space: Space) -> Tensor:
        """Mean answer [N, K] to inputs [N, C, H, W] of the members chosen for each, bool [N, S].

        ``probabilities`` takes the softmax of each member first; ``logits``, as in the published code, does not.
        """
        total: Tensor | None = None
        for member, mask in zip(self.members, chosen.T, strict=True):
            rows = mask.nonzero()[:, 0]
            if not len(rows):
                continue
            scores: Tensor = member(inputs[rows])
            answers = scores.softmax(dim=1) if space == "probabilities" else scores
            total = answers.new_zeros(len(inputs), answers.shape[1]) if total is None else total
            total.index_add_(0, rows, answers)
        if total is None:
            raise ValueError("no member was chosen for any input")
        return total / chosen.sum(dim=1, keepdim=True)


def blank_shadows(predictor: Predictor, facts: Mapping[str, Any], count: int) -> Shadows:
    """Shadows with any weights, from saved facts; raises `ModelError` where they are incomplete."""
    return Shadows([blank_network(predictor, facts) for _ in range(count)])


def train_shadows(preparation: Preparation, arch: str | None, count: int, *, epochs: int) -> Shadows:
    """Shadows of an architecture, or of the victim's, trained on its training images and labels.

    SGD at a constant 0.01, momentum 0.9, weight decay 1e-4, batches of 256, as in the published code, which trains for
    one epoch: shadows are undertrained on purpose.
    """
    train = preparation.train
    settings = replace(SHADOW_FIT, epochs=epochs)
    members = []
    for number in range(count):
        network = random_network(preparation, "queen", arch=arch, seed=number)
        own = derive(preparation.seed, "queen", "shadow", number)
        fit(network, train, train.labels, settings, seed=own, device=preparation.device)
        members.append(network)
    return Shadows(members)
