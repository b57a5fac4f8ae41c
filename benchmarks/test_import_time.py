"""Starting up: heavy packages are imported by the commands that need them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import pytest

LIMIT_SECONDS = 1.0


@pytest.mark.parametrize(
    "arguments", [["-c", "import modelmoat"], ["-m", "modelmoat", "--help"]], ids=["import", "help"]
)
def test_start_is_under_a_second(arguments: list[str], report: Callable[[str, float, str], None]) -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    seconds = median(times)
    report(f"start: {' '.join(arguments)}, share of a second", seconds, f"{seconds:.2f} s")
    assert seconds < LIMIT_SECONDS
