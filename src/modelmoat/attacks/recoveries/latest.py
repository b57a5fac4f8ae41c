"""Latest answers only: what was answered before a defense had seen enough, or while it still poisoned, is thrown away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from modelmoat.attacks._transfer import SomeImages
from modelmoat.attacks.recoveries.base import RECOVERIES, Recovery
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import require


@RECOVERIES.register("latest")
@dataclass(frozen=True, kw_only=True, repr=False)
class Latest(Recovery):
    """Trains on the last ``share`` of the answers alone; all of them were paid for.

    It gets the better of a defense that treats the first queries otherwise than later ones.
    """

    share: float = 0.5
    """Share of the answers that is kept."""

    paper: ClassVar[str] = "none: what every change in the course of a theft invites"
    knows: ClassVar[str] = "expects answers that get better in the course of the theft"

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, f"latest:share={self.share}: expected a share in (0, 1], such as 0.5")

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """The last of the inputs with their answers, at least one."""
        del thief, stage
        count = len(transfer.targets)
        rows = torch.arange(count - max(1, round(self.share * count)), count)
        return replace(transfer, images=SomeImages(transfer.images, rows), targets=transfer.targets[rows])
