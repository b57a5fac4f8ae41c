"""Which arithmetic a training runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from modelmoat.core.errors import OptionError
from modelmoat.core.hardware import native_bfloat16

Precision = Literal["float32", "bfloat16"]
PrecisionChoice = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[PrecisionChoice, ...] = ("auto", "float32", "bfloat16")


def resolve_precision(choice: str, device: torch.device) -> Precision:
    """Turn ``auto`` into bfloat16 where the hardware multiplies it natively, and into float32 elsewhere."""
    if choice == "auto":
        return "bfloat16" if native_bfloat16(device) else "float32"
    if choice == "float32":
        return "float32"
    if choice == "bfloat16":
        return "bfloat16"
    raise OptionError(f"precision={choice}: expected one of {', '.join(PRECISIONS)}")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Context in which forward passes run in ``precision``."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
