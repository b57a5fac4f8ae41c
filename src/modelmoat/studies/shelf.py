"""A folder of trained victims that studies share, so that none is trained twice."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelmoat.core.files import disk_errors
from modelmoat.studies.units import TrainUnit


@dataclass(frozen=True)
class VictimShelf:
    """Finished victims by the hash of all that they depend on."""

    root: Path

    def take(self, unit: TrainUnit, study: Path) -> None:
        """Copy the victim into the study's folder, if it is here and not there."""
        source, target = self._place(unit), study / unit.folder
        if source.is_dir() and not target.exists():
            _copy(source, target)

    def put(self, unit: TrainUnit, study: Path) -> None:
        """Copy a finished victim of the study here, if it is not here yet."""
        if not self._place(unit).exists():
            _copy(study / unit.folder, self._place(unit))

    def _place(self, unit: TrainUnit) -> Path:
        return self.root / f"{unit.plan.recipe.name}-{unit.plan.arch}-{unit.seed}-{unit.digest()}"


def _copy(source: Path, target: Path) -> None:
    """Copy a folder whole or not at all; one that came first stays."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            shutil.copytree(source, Path(temporary, target.name))
            with suppress(FileExistsError):
                _rename(Path(temporary, target.name), target)


def _rename(source: Path, target: Path) -> None:
    """Move a folder; raises `FileExistsError` where there is one."""
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(target) from error
        raise
