"""Reading option values that several commands share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast, get_args

from modelmoat.core.errors import OptionError, nearest
from modelmoat.training.precision import PrecisionChoice
from modelmoat.training.settings import Augment


@contextmanager
def by_option_names(options: Mapping[str, str]) -> Iterator[None]:
    """Let errors about fields speak of the options that set them: ``lr=0`` becomes ``--clone-lr 0``."""
    try:
        yield
    except OptionError as error:
        field, equals, rest = str(error).partition("=")
        if not equals or field not in options:
            raise
        raise OptionError(f"{options[field]} {rest}") from error


def read_precision(text: str) -> PrecisionChoice:
    """One of the precisions; raises `OptionError`."""
    return cast(PrecisionChoice, _read_choice("--precision", text, get_args(PrecisionChoice)))


def read_augment(text: str) -> Augment:
    """One of the kinds of augmentation; raises `OptionError`."""
    return cast(Augment, _read_choice("--augment", text, get_args(Augment)))


def _read_choice(option: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise OptionError(f"{option} {text}: expected one of {', '.join(choices)}{nearest(text, choices)}")
    return text


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
    most = math.inf if name == "relative_accuracy" else 1.0  # a clone may be more accurate than its victim
    if not 0 <= limit <= most:
        raise OptionError(f"--fail-above {text}: expected a limit of 0 to {most:g}, such as {name}=0.8")
    return name, limit


def checked_device(device: str) -> str:
    """The device, if this machine has it."""
    import torch

    from modelmoat.core.hardware import gpu_number

    number = gpu_number(device, "--device")
    if number is None:
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise OptionError(f"--device {device}: this machine has no usable CUDA device; fix: --device cpu")
    if number >= count:
        raise OptionError(f"--device {device}: this machine has CUDA devices 0 to {count - 1}; fix: --device cuda")
    return device
