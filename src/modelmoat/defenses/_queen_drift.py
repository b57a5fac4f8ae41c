"""QUEEN's feature drift: move an answer's features as far as the label holds."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12


def drift(
    probabilities: Tensor, features: Tensor, centers: Tensor, weight: Tensor, *, step: float, steps: int
) -> Tensor:
    """Answers at features that walked away from their class without changing the label.

    From z = phi(x) the walk goes along e = (f - z) / |f - z| toward the class center f that is farthest from z, in at
    most ``steps`` steps of length ``step``, and stops before the top class c would change. Since the head is linear,
    logits move along a line, h(z + t e) = h(z) + t W e, and the first change of label comes at

        t* = min over j with (We)_j > (We)_c of (h_c - h_j) / ((We)_j - (We)_c),

    so the last step that keeps the label is the largest m with m ``step`` < t*, found without walking.

    Args:
        probabilities: clean rows p = softmax(h(z)), [N, K]; logits are taken from them, as log p.
        features: z, [N, D].
        centers: mean features of each class, [K, D].
        weight: W of the head, [K, D].
        step: length of a step, in units of features.
        steps: most steps.

    Returns:
        softmax(log p + m step W e), [N, K], with the top class of p; rows that cannot move are p itself.
    """
    top = probabilities.argmax(dim=1, keepdim=True)
    slope = _directions(features, centers) @ weight.T
    count = _steps_that_keep(probabilities.log(), slope, top, step, steps)
    moved = _moved(probabilities, slope, count, step)
    lost = (moved.argmax(dim=1, keepdim=True) != top) & (count > 0)  # one step too far, by rounding
    moved = torch.where(lost, _moved(probabilities, slope, count - 1, step), moved)
    kept = (count - lost.to(count.dtype) > 0) & (moved.argmax(dim=1, keepdim=True) == top)
    return torch.where(kept, moved, probabilities)


def _directions(features: Tensor, centers: Tensor) -> Tensor:
    """Unit vectors to the farthest centers, [N, D]."""
    distances = torch.cdist(features, centers, compute_mode="donot_use_mm_for_euclid_dist")  # the same for any batch
    ways: Tensor = centers[distances.argmax(dim=1)] - features
    lengths: Tensor = ways.norm(dim=1, keepdim=True)
    return ways / lengths.clamp_min(_TINY)


def _steps_that_keep(logits: Tensor, slope: Tensor, top: Tensor, step: float, steps: int) -> Tensor:
    """Number of steps before the label changes, 0 to ``steps``, as floats [N, 1]."""
    lead = logits.gather(1, top) - logits
    closing = slope - slope.gather(1, top)
    crossing = torch.where(closing > 0, lead / closing.clamp_min(_TINY), torch.inf).amin(dim=1, keepdim=True)
    whole = torch.ceil(crossing / step) - 1 if step > 0 else torch.zeros_like(crossing)
    return whole.clamp(0, steps)


def _moved(probabilities: Tensor, slope: Tensor, count: Tensor, step: float) -> Tensor:
    return torch.softmax(probabilities.log() + count.clamp_min(0) * step * slope, dim=1)
