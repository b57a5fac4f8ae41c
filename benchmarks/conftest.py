"""Speed claims, each a ratio of two things measured in turns within one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import pytest

Timed = Callable[[], object]


@pytest.fixture
def in_turns() -> Callable[..., tuple[float, float]]:
    """Median seconds of two calls, measured in turns so that a busy moment of the machine falls on both."""

    def measure(first: Timed, second: Timed, *, rounds: int = 5, warmup: int = 1) -> tuple[float, float]:
        for _ in range(warmup):
            first()
            second()
        times = [(_seconds(first), _seconds(second)) for _ in range(rounds)]
        return median(a for a, _ in times), median(b for _, b in times)

    return measure


@pytest.fixture
def report(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> Callable[[str, float, str], None]:
    """Print one line of the table: what was measured, the ratio, and what it is made of."""

    def say(what: str, ratio: float, parts: str) -> None:
        record_property(what, ratio)
        with capsys.disabled():
            print(f"\n{what}: {ratio:.2f}x ({parts}; {os.cpu_count()} cores)")

    return say


def _seconds(call: Timed) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
