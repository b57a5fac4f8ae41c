"""QUEEN's gradient reversal: the answer that drives a clone away from the victim."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reverse(expected: Tensor, probabilities: Tensor) -> Tensor:
    """Answers that turn around the gradient of a clone that now answers ``expected``.

    The gradient of soft cross-entropy at a clone's logits is p' - y for its answer p' and the served y. Serving y = p
    gives p' - p; to get p - p' instead, y would have to be w = 2 p' - p, which may leave the simplex. Served is the row
    on the simplex with the largest cosine to w. The authors search it per query with SLSQP. In closed form it is

        y = max(w, 0) / sum max(w, 0),

    since <x, w> <= <x, max(w, 0)> <= |x| |max(w, 0)| for x >= 0, with equality only for x in the direction of max(w, 0).
    A row w without positive entries, which probabilities cannot give, becomes one-hot at its largest.

    Args:
        expected: p', answers of the shadow models, [N, K]; logits in the published code.
        probabilities: p, clean rows, [N, K].

    Returns:
        Rows on the simplex, [N, K].

    >>> reverse(torch.tensor([[0.3, 0.5, 0.2]]), torch.tensor([[0.8, 0.15, 0.05]]))
    tensor([[0.0000, 0.7083, 0.2917]])
    """
    wanted = 2 * expected - probabilities
    positive = wanted.clamp_min(0.0)
    total = positive.sum(dim=1, keepdim=True)
    one_hot = F.one_hot(wanted.argmax(dim=1), wanted.shape[1]).to(wanted.dtype)
    scaled = positive / total.clamp_min(torch.finfo(wanted.dtype).tiny)
    return torch.where(total > 0, scaled, one_hot)
