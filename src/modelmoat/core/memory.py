"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT = 1 << 30  # free bytes that stay at the top of the heap
_LARGEST = 32 << 20  # bytes of the largest block that comes from there: the most that glibc takes


def keep_freed_memory() -> None:
    """Use the memory of tensors that are gone for the next ones, where glibc would return it and ask for it again.

    The system clears what it gives, page by page: training steps of a LeNet took a fifth longer for it here, and large
    batches through a ResNet two fifths. For whole processes, so commands and workers ask for it and the library does not.
    Nothing changes where the C library is another, or where variables ``MALLOC_...`` say what the user wants.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    adjust = ctypes.CDLL(None).mallopt
    adjust(_TRIM_THRESHOLD, _KEPT)
    adjust(_MMAP_THRESHOLD, _LARGEST)
