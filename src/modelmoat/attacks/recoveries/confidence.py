"""Confidence filter: learn from the answers that a defense left alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from modelmoat.attacks._transfer import SomeImages
from modelmoat.attacks.recoveries.base import RECOVERIES, ROWS, Recovery
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import require
from modelmoat.victims.answers import OutputKind


@RECOVERIES.register("confidence")
@dataclass(frozen=True, kw_only=True, repr=False)
class Confidence(Recovery):
    """Trains on answers with a served confidence of at least ``least``, and drops the others, which were paid for too.

    Defenses that act on unsure answers (adaptive misinformation, DCP) leave a gap in the histogram of confidences; what
    lies above it is clean. In any case the most confident ``share`` of the answers is kept, so that something is left.
    """

    least: float = 0.7
    """Confidence from which an answer is kept."""
    share: float = 0.1
    """Share of the answers that is kept in any case."""

    paper: ClassVar[str] = "-"
    outputs: ClassVar[frozenset[OutputKind]] = ROWS
    knows: ClassVar[str] = "expects a defense that changes unsure answers only, and drops those"

    def __post_init__(self) -> None:
        require(0 <= self.least <= 1, f"confidence:least={self.least}: expected 0 to 1, a confidence")
        require(0 < self.share <= 1, f"confidence:share={self.share}: expected a share in (0, 1]")

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """The confident part of the transfer set, in its order."""
        del thief, stage
        kept = self.kept(transfer.targets)
        return replace(transfer, images=SomeImages(transfer.images, kept), targets=transfer.targets[kept])

    def kept(self, rows: Tensor) -> Tensor:
        """Which of N answers [N, K] are kept: positions in growing order.

        >>> import torch
        >>> Confidence(least=0.9).kept(torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.08, 0.92]]))
        tensor([0, 2])
        """
        confidence = rows.amax(dim=1)
        fewest = math.ceil(self.share * len(rows))
        surest = confidence.sort(descending=True, stable=True).indices[:fewest]
        chosen = confidence >= self.least
        chosen[surest] = True
        return chosen.nonzero()[:, 0]
