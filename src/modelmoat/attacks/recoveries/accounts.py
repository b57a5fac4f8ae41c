"""Several accounts: what a defense remembers of one of them says little about the theft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modelmoat.attacks.recoveries.base import RECOVERIES, Recovery
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import require


@RECOVERIES.register("accounts")
@dataclass(frozen=True, kw_only=True, repr=False)
class Accounts(Recovery):
    """Sends inputs from ``count`` accounts in turns, so that each asks little; answers stay as they are.

    It gets the better of a defense that counts, limits or watches each account by itself.
    """

    count: int = 10
    """Accounts that take turns."""

    paper: ClassVar[str] = "none: what every limit per account invites"
    knows: ClassVar[str] = "how to open accounts"

    def __post_init__(self) -> None:
        require(self.count >= 2, f"accounts:count={self.count}: expected at least 2")

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """Nothing is left to do once the answers are here."""
        del thief, stage
        return transfer
