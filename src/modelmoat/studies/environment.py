"""Variables that libraries and worker processes read when they start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from modelmoat.data.storage import LIMIT_VARIABLE

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the length of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def threads(count: int) -> dict[str, str]:
    """Variables by which a process that starts uses so many threads."""
    return dict.fromkeys(_THREADS, str(count))


def shared_images() -> contextlib.AbstractContextManager[None]:
    """Let all processes of a study map decoded images from one file, instead of each decoding its own.

    A limit that the user has set stays.
    """
    return environment({LIMIT_VARIABLE: os.environ.get(LIMIT_VARIABLE, "").strip() or "0B"})
