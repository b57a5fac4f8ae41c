"""Folders on an object store, and their copies on machines."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from modelmoat.core.errors import ModelmoatError, OptionError, RunError
from modelmoat.core.files import atomic_path, write_text
from modelmoat.studies.folder import DONE_FILE

_STATE = ".state.json"  # what is known to be the same on both sides
_LOCK = ".pull"

_State = dict[str, list[Any]]
"""By the name of a file: what the store said of it, and the size and the time of its copy."""


class Storage:
    """Files below a URL that fsspec knows.

    A file appears whole where the store writes objects whole. Of a folder ``done.json`` goes last, both ways. Files whose
    names begin with a dot stay where they are.

    Raises:
        OptionError: nothing that is installed reads such a URL.
        RunError: a file cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._base = _open(self.url)

    def pull(self, root: Path, folder: Path, *, deep: bool = True) -> None:
        """Make the copy under ``root`` the same as a folder; what is known to be the same is not read again.

        Args:
            root: what the URL is on this machine.
            folder: relative to both.
            deep: with all folders in it.
        """
        here = root / folder
        here.mkdir(parents=True, exist_ok=True)
        with FileLock(here / _LOCK), self._errors("read"):
            there, state = self._list(folder, deep=deep), self._state(here)
            for name in _names(here, deep=deep) - there.keys():
                (here / name).unlink()
            for name in sorted(there, key=_last):
                if state.get(name) != [there[name], *_stamp(here / name)]:
                    with atomic_path(here / name) as temporary, self._errors("read"):
                        self._files.get_file(self._at(folder / name), str(temporary))
                    state[name] = [there[name], *_stamp(here / name)]
            self._note(here, {name: state[name] for name in there})

    def push(self, root: Path, folder: Path, *, deep: bool = True) -> None:
        """Write what has changed in the copy under ``root`` since it was pulled or pushed, and remove what is gone."""
        here = root / folder
        with self._errors("write"):
            state, names = self._state(here), _names(here, deep=deep)
            for name in sorted(names, key=_last):
                stamp = _stamp(here / name)
                if state.get(name, [None])[1:] != stamp:
                    target = self._at(folder / name)
                    self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(here / name), target)
                    state[name] = [None, *stamp]
            for name in state.keys() - names:
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm(self._at(folder / name))
            if names:
                self._note(here, {name: state[name] for name in names})

    def _list(self, folder: Path, *, deep: bool) -> dict[str, str]:
        """Files of a folder, and what the store says of each."""
        self._files.invalidate_cache()
        top = self._at(folder)
        found = self._files.find(top, maxdepth=None if deep else 1, detail=True)
        listed = {path.removeprefix(top).lstrip("/"): str(info) for path, info in found.items()}
        return {name: info for name, info in listed.items() if _travels(Path(name))}

    def _at(self, path: Path) -> str:
        return f"{self._base}/{path.as_posix()}".removesuffix("/.")

    def _state(self, here: Path) -> _State:
        """What was noted of this URL; a folder may have come from another."""
        path = here / _STATE
        page = json.loads(path.read_bytes()) if path.exists() else {}
        state: _State = page["files"] if page.get("url") == self.url else {}
        return state

    def _note(self, here: Path, state: _State) -> None:
        write_text(here / _STATE, json.dumps({"url": self.url, "files": state}))

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """Each store has errors of its own."""
        try:
            yield
        except ModelmoatError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            raise RunError(
                f"cannot {verb} {self.url}: {type(error).__name__}: {words}; fix: see that this machine may read and write "
                "there, then run the same command again"
            ) from error


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, base = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise OptionError(
            f"--out {url}: {' '.join(str(error).split())}; fix: a folder, or a URL that fsspec and what is installed beside it "
            "can read"
        ) from error
    return files, base.rstrip("/")


def _names(here: Path, *, deep: bool) -> set[str]:
    found = here.rglob("*") if deep else here.glob("*")
    paths = [path.relative_to(here) for path in found if path.is_file()]
    return {path.as_posix() for path in paths if _travels(path)}


def _travels(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _last(name: str) -> tuple[bool, str]:
    return name == DONE_FILE, name


def _stamp(path: Path) -> list[int]:
    if not path.exists():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
