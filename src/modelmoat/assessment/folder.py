"""A run's folder: locked, checked, and resumed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modelmoat import __version__
from modelmoat.assessment.scene import Scene
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.core.errors import RunError
from modelmoat.core.files import digest_of, disk_errors
from modelmoat.core.records import Record, append_record, read_records, write_parquet
from modelmoat.core.runs import RunInfo, machine, now, package_versions, read_run, write_run

LOCK_FILE = ".lock"


class RunFolder:
    """Records, journals and the run page of one folder.

    Args:
        path: the folder; made when missing.
        spec: what is run now.
        scene: what it is run on.
        command: how it was started, to be repeated.

    Raises:
        RunError: the folder belongs to a run with another victim, data, pool or clone.
    """

    def __init__(self, path: Path, spec: AssessmentSpec, scene: Scene, command: list[str]) -> None:
        self.path = path
        self.hashes = _hashes(scene)
        self._setting = digest_of({"setting": spec.setting(), "hashes": self.hashes})
        self._check(read_run(path), spec)
        self.records = read_records(path)
        write_run(path, self._page(spec, command))

    def cell(self, defense: str, attack: str, budget: int, seed: int) -> str:
        """Hash of all that one record depends on."""
        return digest_of(
            {"setting": self._setting, "defense": defense, "attack": attack, "budget": budget, "seed": seed}
        )

    def done(self) -> set[str]:
        """Cells that have a record."""
        return {record.cell for record in self.records}

    def add(self, record: Record) -> None:
        """Write a record; it is on disk when this returns."""
        append_record(self.path, record)
        self.records.append(record)

    def journal(self, defense: str, attack: str, seed: int) -> Path:
        """Where the answers of one attacker's queries are kept."""
        words = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{defense}--{attack}--seed{seed}")[:80]
        return self.path / "journals" / f"{words}-{digest_of({'d': defense, 'a': attack, 's': seed})[:8]}.journal"

    def clone_folder(self, cell: str) -> Path:
        """Where a kept clone goes."""
        return self.path / "clones" / cell

    def finish(self) -> None:
        """Write the table of all records."""
        write_parquet(self.path, self.records)

    def _check(self, earlier: RunInfo | None, spec: AssessmentSpec) -> None:
        if earlier is None or earlier.spec_digest == self._setting:
            return
        before, today = _named(earlier.spec, earlier.hashes), _named(spec.setting(), self.hashes)
        changed = [
            f"{key} was {before.get(key)!r} and is now {value!r}"
            for key, value in today.items()
            if before.get(key) != value
        ]
        raise RunError(
            f"{self.path} holds a run with another setting: {'; '.join(changed) or 'an older version'}; "
            "fix: choose another --out folder, or run the same setting again"
        )

    def _page(self, spec: AssessmentSpec, command: list[str]) -> RunInfo:
        import torch

        return RunInfo(
            command=command,
            spec=spec.described(),
            spec_digest=self._setting,
            created=now(),
            package_version=__version__,
            versions=package_versions(),
            machine=machine({"torch_threads": torch.get_num_threads(), "device": spec.device}),
            hashes=self.hashes,
            price_per_1000=spec.price_per_1000,
            target_fidelity=spec.target_fidelity,
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder for this process alone; raises `RunError` when another holds it."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, not a folder; fix: choose another --out folder")
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK_FILE)
    with disk_errors(path):
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


def _named(setting: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """One flat table of a setting and of the hashes of what it was run on, by the words of a message."""
    inner = {
        f"{key}.{name}": value
        for key, inside in setting.items()
        if isinstance(inside, dict)
        for name, value in inside.items()
    }
    plain = {key: value for key, value in setting.items() if not isinstance(value, dict)}
    return {**plain, **inner, **{f"hash of {key}": value for key, value in hashes.items()}}


def _hashes(scene: Scene) -> dict[str, str]:
    return {"victim": scene.predictor.digest, "test": scene.test.digest, "pool": scene.pool.digest}
