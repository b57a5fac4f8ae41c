"""ModelGuard-W: the most misleading answer within a distance, top class kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.defenses._checks import checked, keep_top1
from modelmoat.defenses._l1_ball import WithinL1
from modelmoat.defenses._margin_program import least_likely_rows
from modelmoat.defenses.base import DEFENSES
from modelmoat.victims import CleanAnswers

_CACHED_VALUES = 1 << 16


@DEFENSES.register("modelguard_w")
@dataclass(frozen=True, kw_only=True, repr=False)
class ModelGuardW(WithinL1):
    r"""Moves mass to the classes that the victim finds least likely, within ``epsilon`` in L1, top class kept.

    It serves the row that minimizes sum_k log(y_k + 1e-6) y~_k on the simplex with |y~ - y|_1 <= epsilon and
    y~_m - y~_k >= 1e-4 for m = argmax y and all other k. Rows for which no answer within ``epsilon`` has that margin are
    served as they are. The published code solves a linear program per query; this is the same optimum for all rows at
    once. Labels alone undo it.

    >>> ModelGuardW(epsilon=1.0).perturb(torch.tensor([[0.9, 0.07, 0.03]]))
    tensor([[0.4000, 0.2001, 0.3999]])
    """

    paper: ClassVar[str] = (
        "Tang et al., ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks, USENIX Security 2024"
    )
    keeps_top1: ClassVar[bool] = True

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Rows of least cost, a few at a time, so that the solver's tables stay in the processor's cache."""
        clean = checked(clean, self.spec)
        rows = max(1, _CACHED_VALUES // clean.probabilities.shape[1])
        return torch.cat([self.perturb(part) for part in clean.probabilities.split(rows)])

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Rows of least cost, [N, K] -> [N, K]."""
        if self.epsilon == 0:
            return probabilities
        rows = least_likely_rows(probabilities, self.epsilon)
        if rows.dtype in (torch.float32, torch.float64):
            return rows  # the margin is wider than their rounding
        return keep_top1(rows, probabilities.argmax(dim=1, keepdim=True))
