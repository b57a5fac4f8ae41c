"""Reading option values that several commands share."""

from __future__ import annotations

import math
import re
from typing import Any, cast, get_args

from modelmoat.core.errors import OptionError, nearest
from modelmoat.training import FitSettings
from modelmoat.training.settings import Augment


def read_fit(*, augment: str = "auto", **values: Any) -> FitSettings:
    """Fit settings from option values; raises `OptionError`."""
    choices = get_args(Augment)
    if augment not in choices:
        raise OptionError(f"augment={augment}: expected one of {', '.join(choices)}{nearest(augment, choices)}")
    return FitSettings(augment=cast(Augment, augment), **values)


def read_numbers(option: str, text: str, *, least: int) -> tuple[int, ...]:
    """Whole numbers from a list such as ``100,1000``.

    >>> read_numbers("--budget", "100, 1_000", least=1)
    (100, 1000)
    """
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OptionError(
            f"{option} {text}: expected whole numbers with commas between, such as {option} 100,1000"
        ) from None
    if not numbers or min(numbers) < least:
        raise OptionError(f"{option} {text}: expected at least one number, each at least {least}")
    return tuple(dict.fromkeys(numbers))


def read_limit(text: str, known: tuple[str, ...]) -> tuple[str, float]:
    """A metric and its limit from ``fidelity=0.8``."""
    name, equals, number = text.partition("=")
    if not equals or name not in known:
        raise OptionError(
            f"--fail-above {text}: expected METRIC=LIMIT with one of {', '.join(known)}{nearest(name, known)}"
        )
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= 1:
        raise OptionError(f"--fail-above {text}: expected a limit in [0, 1], such as {name}=0.8")
    return name, limit


def checked_device(device: str) -> str:
    """The device, if this machine has it."""
    import torch

    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device, re.ASCII)
    if not match:
        raise OptionError(f"--device {device}: expected cpu, cuda or cuda:N{nearest(device, ('cpu', 'cuda'))}")
    if device == "cpu":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise OptionError(f"--device {device}: this machine has no usable CUDA device; fix: --device cpu")
    if int(match[1] or 0) >= count:
        raise OptionError(f"--device {device}: this machine has CUDA devices 0 to {count - 1}; fix: --device cuda")
    return device
