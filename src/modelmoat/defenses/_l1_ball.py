"""Defenses that move an answer within a distance that is their first parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from modelmoat.core.errors import require
from modelmoat.defenses.base import Defense
from modelmoat.defenses.dial import Dial


@dataclass(frozen=True, kw_only=True, repr=False)
class WithinL1(Defense):
    """Serves a row within ``epsilon`` of the clean one, in L1."""

    epsilon: float = 1.0
    """Most that an answer may move, in L1, 0 to 2; 0 changes nothing."""

    identity: ClassVar[dict[str, Any] | None] = {"epsilon": 0.0}

    def __post_init__(self) -> None:
        require(0 <= self.epsilon <= 2, f"{self.name}:epsilon={self.epsilon}: expected 0 to 2, an L1 distance")

    def dial(self, num_classes: int) -> Dial:
        """``epsilon``."""
        del num_classes
        return Dial(parameter="epsilon", weakest=0.0, strongest=2.0)

    @property
    def l1_bound(self) -> float:
        """``epsilon``."""
        return self.epsilon
