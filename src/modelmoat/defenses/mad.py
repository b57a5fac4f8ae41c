"""MAD: answers that turn a thief's gradient away from what it would have learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelmoat.defenses._gram import Gram
from modelmoat.defenses._poisoning import Poisoning, first_best
from modelmoat.defenses.base import DEFENSES


@DEFENSES.register("mad")
@dataclass(frozen=True, kw_only=True, repr=False)
class Mad(Poisoning):
    r"""Moves answers toward the class whose gradient in a surrogate is at the largest angle to that of the clean answer.

    With G [K, D] the gradients of the surrogate's log-probabilities, it takes the one-hot row e_k that maximizes
    |Gᵀe_k / |Gᵀe_k| - Gᵀy / |Gᵀy||^2, and goes from y toward it as far as ``epsilon`` allows in ``norm``. The top-1 may
    change. Rows for which the thief would learn nothing (Gᵀy = 0) are left as they are. Only one-hot rows are tried, as
    published; they are optimal for the distance (``normalized=false``), not for the angle.

    Parameters:
        epsilon: radius of the ball around the clean answer; 0 changes nothing, the diameter (2 in L1) is no limit.
        layers: ``last``, as published: gradients of the last linear layer's weight, by a closed form from one forward pass
            of the surrogate. ``all``: all parameters, by per-sample gradients held in ``memory_mb``.
        normalized: False maximizes |Gᵀ(e_k - y)|^2 instead of the angle.
        surrogate: ``random`` (untrained, batch statistics filled by one pass over ten training images, as published), an
            artifact directory, or ``uniform`` (probabilities 1 / K, no network).
        arch: architecture of the random surrogate; the victim's if None.
        seed: of the random surrogate, beside the seed of the preparation.
    """

    def vertex(self, y: Tensor, gram: Gram, pull: Tensor) -> Tensor:
        """The one-hot row of the best class."""
        best = first_best(self.score(pull, gram.diagonal(), 1))
        return torch.zeros_like(y).scatter(1, best, 1.0)
