"""Turning the terms of a loss into one gradient, when their sum will not do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelmoat.core.seeds import generator
from modelmoat.training import Backward, Terms


class ProjectedGradients:
    """PCGrad (Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020) as the backward pass of a fit.

    Every term's gradient g_i loses what opposes the others: h starts as g_i, and for each term j in a random order,
    where <h, g_j> < 0, h becomes h - <h, g_j> / |g_j|^2 g_j. The step follows the mean of all h where every term reaches
    a parameter, and their sum where some do not. With n terms that scales each gradient by about 1 / n.

    Args:
        network: whose gradients are set; parameters that no term reaches get none.
        seed: of the order, together with the number of the epoch.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._seed = seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Seed the orders of an epoch."""
        self._draws = generator(self._seed, "pcgrad", epoch)

    def __call__(self, terms: Terms) -> None:
        """Set the gradients."""
        gradients = [self._gradients(term) for term in terms.values()]
        flat = torch.stack([_flattened(row, self._parameters) for row in gradients])
        weights = projected_weights(flat @ flat.T, self._draws).sum(dim=0).to(flat)
        merged = (weights @ flat).split([parameter.numel() for parameter in self._parameters])
        for parameter, total, each in zip(self._parameters, merged, zip(*gradients, strict=True), strict=True):
            reached = [gradient is not None for gradient in each]
            if any(reached):
                share = 1 / len(gradients) if all(reached) else 1.0
                parameter.grad = torch.empty_like(parameter).copy_((total * share).view_as(parameter))

    def _gradients(self, term: Tensor) -> Sequence[Tensor | None]:
        return torch.autograd.grad(term, self._parameters, retain_graph=True, allow_unused=True)


def projected_weights(gram: Tensor, draws: torch.Generator) -> Tensor:
    """Each projected gradient as a mix of the original ones, float64 [n, n], from their inner products [n, n].

    Row i holds h_i = sum_j w_ij g_j, so that no gradient has to be formed to project it.

    >>> gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]])  # of (1, 0) and (-1, 1)
    >>> projected_weights(gram, torch.Generator()).tolist()
    [[1.0, 0.5], [1.0, 1.0]]
    """
    products = gram.double().cpu()
    weights = torch.eye(len(products), dtype=torch.float64)
    for row in weights:
        for other in torch.randperm(len(products), generator=draws).tolist():
            along = row @ products[:, other]
            if along < 0 and products[other, other] > 0:
                row[other] -= along / products[other, other]
    return weights


def clipped_backward(network: nn.Module, most: float) -> Backward:
    """The gradient of the sum of all terms, scaled down to a norm of at most ``most``.

    No other network gets one: where a student is differentiated twice, its own would take a fifth of the time.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def backward(terms: Terms) -> None:
        torch.autograd.backward(list(terms.values()), inputs=parameters)
        nn.utils.clip_grad_norm_(parameters, most)

    return backward


def _flattened(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    parts = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
    return torch.cat([part.flatten() for part in parts])
