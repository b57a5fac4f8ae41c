"""Where the machines of a cluster find a study: in a folder that they share, or on an object store."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from modelmoat.core.errors import ModelmoatError, RunError
from modelmoat.core.files import digest_of, write_text
from modelmoat.core.locks import locked
from modelmoat.core.records import read_records
from modelmoat.data.storage import cache_folder
from modelmoat.studies.engine import Outcome
from modelmoat.studies.storage import Storage
from modelmoat.studies.study import Study
from modelmoat.studies.units import Unit, plan_units


class Site(Protocol):
    """The study as each machine finds it."""

    @property
    def root(self) -> Path:
        """Its folder on this machine."""
        ...

    def fetch(self, unit: Unit) -> None:
        """Have here what a unit needs and what was made of it; raises `RunError` where that cannot be."""
        ...

    def save(self, unit: Unit) -> None:
        """Let other machines see what a unit has made so far."""
        ...

    def collect(self, unit: Unit, outcome: Outcome) -> Outcome:
        """Have what a unit made where the study was started; another outcome if it is not all there."""
        ...

    def publish(self, folder: Path) -> None:
        """Let other machines see what a folder has where the study was started."""
        ...


@dataclass(frozen=True)
class SharedFolder:
    """A folder that all machines see at the same path, and a file by which they know that it is the same folder."""

    root: Path
    mark: str

    def fetch(self, unit: Unit) -> None:
        """Check that the folder is shared: records in a folder of this machine alone would be lost."""
        del unit
        if not (self.root / self.mark).exists():
            raise RunError(
                f"a machine of the cluster does not see {self.root}; fix: an --out folder that all machines share, or a URL"
            )

    def save(self, unit: Unit) -> None:
        """It is there."""

    def collect(self, unit: Unit, outcome: Outcome) -> Outcome:
        """It is here."""
        del unit
        return outcome

    def publish(self, folder: Path) -> None:
        """It is there."""


@dataclass(frozen=True)
class ObjectStore:
    """A URL, of which each machine keeps a copy as far as it needs it."""

    url: str

    @property
    def root(self) -> Path:
        """The copy; it may be removed between runs."""
        return cache_folder().parent / "studies" / digest_of({"url": self.url.rstrip("/")})

    def fetch(self, unit: Unit) -> None:
        """Copy the victim, and what an earlier try made."""
        for folder in (*([unit.needs] if unit.needs else []), *unit.makes):
            Storage(self.url).pull(self.root, folder)

    def save(self, unit: Unit) -> None:
        """Write what has changed."""
        for folder in unit.makes:
            Storage(self.url).push(self.root, folder)

    def collect(self, unit: Unit, outcome: Outcome) -> Outcome:
        """Copy the records."""
        try:
            Storage(self.url).pull(self.root, unit.folder)
        except ModelmoatError as error:
            return replace(outcome, error=outcome.error or str(error))
        lost = set(outcome.cells) - {record.cell for record in read_records(self.root / unit.folder)}
        words = f"{len(lost)} of its records did not reach {self.url}; fix: run the same command again" if lost else ""
        return replace(outcome, error=outcome.error or words)

    def publish(self, folder: Path) -> None:
        """Write what has changed."""
        Storage(self.url).push(self.root, folder)


@contextlib.contextmanager
def shared(root: Path) -> Iterator[SharedFolder]:
    """A folder with its mark, for the length of a block."""
    path = root / f".seen-{uuid.uuid4().hex}"
    write_text(path, "")
    try:
        yield SharedFolder(root, path.name)
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def mirrored(url: str, study: Study) -> Iterator[Path]:
    """The copy of a study where it is started: as the URL has it before the block, written back after it.

    Raises:
        RunError: another process of this machine runs it, or the URL cannot be read or written.
    """
    storage, root = Storage(url), ObjectStore(url).root
    trainings, assessments = plan_units(study)
    units: list[Unit] = [*trainings, *assessments]
    with locked(root / ".started"):  # before the folder itself is, since nobody else may work in it now
        storage.pull(root, Path(), deep=False)
        for unit in units:
            storage.pull(root, unit.folder)
        try:
            yield root
        finally:
            storage.push(root, Path(), deep=False)
