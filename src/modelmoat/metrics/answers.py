"""How far served answers are from clean ones, and how good either are."""

from __future__ import annotations

import torch
from torch import Tensor

CALIBRATION_BINS = 15


def top1_accuracy(rows: Tensor, labels: Tensor) -> float:
    """Share of rows [N, K] whose largest entry is at the label [N].

    >>> top1_accuracy(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]))
    0.5
    """
    return float((rows.argmax(dim=1) == labels).double().mean())


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Per row, whether the largest entries of two sets of rows [N, K] are at the same class, bool [N]."""
    return first.argmax(dim=1) == second.argmax(dim=1)


def l1_distances(first: Tensor, second: Tensor) -> Tensor:
    """Sum over classes of absolute differences, [N], in [0, 2] for rows on the simplex.

    >>> l1_distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([2.])
    """
    return (first - second).abs().sum(dim=1)


def calibration_error(rows: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean over rows of |accuracy - confidence| of the row's bin of confidence.

    Bins of equal width over (0, 1], each row weighted alike (Guo et al., On Calibration of Modern Neural Networks,
    ICML 2017).

    Args:
        rows: probabilities [N, K].
        labels: int64 [N].
        bins: number of bins.

    >>> calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1])) # says 0.8, right half the time
    0.3...
    """
    confidence, predicted = rows.double().max(dim=1)
    right = (predicted == labels).double()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).scatter_add(0, place, right - confidence)
    return float(gaps.abs().sum() / len(rows))
