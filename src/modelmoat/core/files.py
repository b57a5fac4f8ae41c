"""Writing that a killed process or a full disk cannot turn into a half-written file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modelmoat.core.errors import RunError

_FIXES = {
    "free some space, then run the same command again": {errno.ENOSPC, errno.EDQUOT},
    "choose a folder that you may write to": {errno.EACCES, errno.EPERM, errno.EROFS},
    "a file of that name is in the way, choose another folder": {errno.EEXIST, errno.ENOTDIR, errno.EISDIR},
}


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces, the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest_of(value: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a JSON value.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there, whole and synced, when the block succeeds."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append one line and sync it; a line that does not fit on the disk leaves no trace."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            append_bytes(file.fileno(), (line + "\n").encode())


def append_bytes(descriptor: int, payload: bytes) -> None:
    """Write all of ``payload`` at the end of an open file and sync it, or cut the file back and raise."""
    start = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        view = memoryview(payload)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, start)
        raise


def read_lines(path: Path, *, repair: bool = True) -> list[str]:
    """Lines of an append-only file; a last line cut short by a crash is dropped with a warning.

    Without ``repair`` the file stays as it is: its last line may still be being written.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole, cut, tail = raw.rpartition(b"\n")
    if tail and repair:
        warnings.warn(
            f"{path}: the last line was cut short ({len(tail)} bytes, no line end); it is dropped and its work is done again",
            stacklevel=2,
        )
        os.truncate(path, len(whole) + len(cut))
    try:
        return whole.decode("utf-8").split("\n") if whole else []
    except UnicodeDecodeError as error:
        raise RunError(
            f"{path} is damaged: {error.reason} at byte {error.start}; expected UTF-8 text; fix: use another --out folder"
        ) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one clear message."""
    try:
        yield
    except OSError as error:
        general = "free some space or choose another folder, then run the same command again"
        fix = next((words for words, numbers in _FIXES.items() if error.errno in numbers), general)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; nothing already written was lost; fix: {fix}"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
