"""Where decoded pixels lie: in memory when they fit, else in a mapped file that later runs use again."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from modelmoat.core.errors import OptionError
from modelmoat.core.files import atomic_path

LIMIT_VARIABLE = "MODELMOAT_MEMORY_LIMIT"
CACHE_VARIABLE = "MODELMOAT_CACHE"

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("IB", 1024))
}


def build(shape: tuple[int, ...], key: Callable[[], str], fill: Callable[[Tensor], None]) -> tuple[Tensor, bool]:
    """A filled uint8 tensor of ``shape``; the flag says whether it is mapped from a file.

    A file is named after ``key()`` and the shape, appears whole or not at all, and is used again without calling
    ``fill``. It is mapped privately: writing to the tensor never reaches the file.

    Raises:
        RunError: the file does not fit on the disk.
        OptionError: the memory limit cannot be read.
    """
    if math.prod(shape) <= memory_limit():
        images = torch.empty(shape, dtype=torch.uint8)
        fill(images)
        return images, False
    path = cache_folder() / f"{key()}-{'x'.join(map(str, shape))}.u8"
    if not (path.exists() and path.stat().st_size == math.prod(shape)):
        with atomic_path(path) as temporary:
            _reserve(temporary, math.prod(shape))
            fill(_mapped(temporary, shape, shared=True))
    return _mapped(path, shape, shared=False), True


def memory_limit() -> int:
    """Bytes that one decoded set may take in memory: ``$MODELMOAT_MEMORY_LIMIT``, else half of what is available."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    return parse_bytes(text) if text else available_memory() // 2


def parse_bytes(text: str) -> int:
    """Read a number of bytes; raises `OptionError` for anything else.

    >>> parse_bytes("2GB"), parse_bytes("1.5 KiB")
    (2000000000, 1536)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise OptionError(
            f"{LIMIT_VARIABLE}={text}: expected a number of bytes with a unit, such as 500MB, 2GB or 1.5GiB"
        )
    return int(float(match[1]) * unit)


def available_memory() -> int:
    """Bytes of memory that can be taken without swapping, within the limit of the container."""
    candidates = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        candidates += [int(found[1]) * 1024] if found else []
    container = Path("/sys/fs/cgroup/memory.max")
    if container.exists():
        limit = container.read_text().strip()
        candidates += [int(limit)] if limit.isdigit() else []
    return min(candidates)


def cache_folder() -> Path:
    """Folder of decoded sets: ``images`` under ``$MODELMOAT_CACHE``, else under ``~/.cache/modelmoat``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/modelmoat").expanduser() / "images"


def _reserve(path: Path, size: int) -> None:
    """Take the disk space at once: a mapped file that runs out of space later kills the process."""
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _mapped(path: Path, shape: tuple[int, ...], *, shared: bool) -> Tensor:
    return torch.from_file(str(path), shared=shared, size=math.prod(shape), dtype=torch.uint8).view(shape)
