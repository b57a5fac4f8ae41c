"""One process in a folder at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from modelmoat.core.errors import RunError
from modelmoat.core.files import disk_errors

LOCK_FILE = ".lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder for this process alone; made when missing.

    Raises:
        RunError: another process holds it, it is a file, or it cannot be written.
    """
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file, not a folder; fix: choose another --out folder")
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:  # an OSError too
            raise RunError(
                f"{path} is in use by another modelmoat process; fix: wait for it, or choose another --out folder"
            ) from None
    try:
        yield
    finally:
        lock.release()
