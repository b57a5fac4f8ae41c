from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping

import pytest

TAKEN = 4 * 24  # MiB
SCRIPT = """
import mmap
import sys
from pathlib import Path

import torch

from modelmoat.core.memory import keep_freed_memory

if "kept" in sys.argv:
    keep_freed_memory()


def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20


before = held()
blocks = [torch.ones(24 << 18) for _ in range(4)]
del blocks
print(held() - before)
"""


def kept(*arguments: str, variables: Mapping[str, str] | None = None) -> float:
    """MiB that a process holds after four tensors of 24 MiB are gone, beyond what it held before."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**inherited, "OMP_NUM_THREADS": "1", **(variables or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_of_tensors_that_are_gone_stays() -> None:
    assert kept() < TAKEN / 2, "else there would be nothing to gain"
    assert kept("kept") > TAKEN * 0.9


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_the_user_set_stays() -> None:
    assert kept("kept", variables={"MALLOC_MMAP_THRESHOLD_": "131072"}) < TAKEN / 2
