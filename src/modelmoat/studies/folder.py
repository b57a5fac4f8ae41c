"""The folder of a study: what is done, what failed, and all records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelmoat import __version__
from modelmoat.core.errors import RunError
from modelmoat.core.files import append_line, disk_errors, write_text
from modelmoat.core.records import Record, read_records
from modelmoat.core.runs import machine, now, package_versions
from modelmoat.models.artifact import CARD_FILE
from modelmoat.studies.study import Study
from modelmoat.studies.table import Row
from modelmoat.studies.units import AssessUnit, TrainUnit, Unit

STUDY_FILE = "study.json"
DONE_FILE = "done.json"
FAILURES_FILE = "failures.jsonl"


class StudyFolder:
    """What a study has made so far.

    Args:
        root: the folder.
        repair: drop rows of records that a crash cut short; not where another process may be writing them.
    """

    def __init__(self, root: Path, *, repair: bool = True) -> None:
        self.root, self._repair = root, repair

    def check(self, study: Study, trainings: Sequence[TrainUnit]) -> None:
        """Check that the folder is this study's, or nobody's yet.

        Raises:
            RunError: it holds another study, or victims that were trained otherwise.
        """
        earlier = self._page(self.root / STUDY_FILE)
        if earlier and earlier.get("study", {}).get("study") != study.study:
            raise RunError(
                f"{self.root} holds the study '{earlier['study']['study']}', not '{study.study}'; fix: choose another --out"
            )
        for unit in trainings:
            done = self._page(self.root / unit.folder / DONE_FILE)
            if done and done.get("unit") != unit.digest():
                raise RunError(
                    f"{self.root / unit.folder} was trained with other settings; fix: give the victim '{unit.name}' another "
                    "name, choose another --out, or remove that folder"
                )

    def open(self, study: Study, command: Sequence[str], *, runs: bool) -> None:
        """Write down the study as it is now and, where units run, with what; forget the failures of earlier runs."""
        before = self._page(self.root / STUDY_FILE) or {}
        page = {**before, "study": study.model_dump(mode="json"), "runs": self.runs()}
        if runs:
            page |= {
                "updated": now(),
                "package_version": __version__,
                "versions": package_versions(),
                "machine": machine(),
            }
            page["runs"] += [{**_run(page), "command": list(command)}]
        if page != before:
            write_text(self.root / STUDY_FILE, json.dumps(page, indent=2) + "\n")
        with disk_errors(self.root / FAILURES_FILE):
            (self.root / FAILURES_FILE).unlink(missing_ok=True)

    def runs(self) -> list[dict[str, Any]]:
        """When and with what units ran: one entry for each start that had any to run, oldest first."""
        page = self._page(self.root / STUDY_FILE) or {}
        known: list[dict[str, Any]] = page.get("runs", [_run(page)] if "updated" in page else [])
        return known

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit has all that it is to make."""
        page = self._page(self.root / unit.folder / DONE_FILE)
        if page is None or page["unit"] != unit.digest():
            return False
        if isinstance(unit, TrainUnit):
            return (self.root / unit.folder / CARD_FILE).is_file()
        return set(page["cells"]) <= {record.cell for record in read_records(self.root / unit.folder)}

    def mark_done(self, unit: Unit, cells: Sequence[str]) -> None:
        """Write down that a unit is done, and its cells."""
        text = json.dumps({"unit": unit.digest(), "cells": list(cells)})
        write_text(self.root / unit.folder / DONE_FILE, text + "\n")

    def note_failure(self, unit: Unit, error: str, trace: str) -> None:
        """Append a failure of this run to ``failures.jsonl``."""
        row = {"time": now(), "unit": str(unit), "folder": str(unit.folder), "error": error, "traceback": trace}
        append_line(self.root / FAILURES_FILE, json.dumps(row))

    def study(self) -> Study | None:
        """The study that was last begun here; None where there was none, raises `RunError` for one of another version."""
        page = self._page(self.root / STUDY_FILE)
        try:
            return None if page is None else Study.model_validate(page.get("study"))
        except ValidationError as error:
            raise RunError(
                f"{self.root / STUDY_FILE} is of another version of modelmoat: {error.errors()[0]['msg']}; "
                "fix: use the version that wrote it"
            ) from error

    def rows(self, units: Sequence[AssessUnit]) -> list[Row]:
        """All records of these units; of a finished one those that the study asks for now."""
        return [Row.of(unit, record) for unit in units for record in self._records(unit)]

    def _records(self, unit: AssessUnit) -> list[Record]:
        records = read_records(self.root / unit.folder, repair=self._repair)
        page = self._page(self.root / unit.folder / DONE_FILE)
        if page is None or page["unit"] != unit.digest():
            return records
        return [record for record in records if record.cell in page["cells"]]

    @staticmethod
    def _page(path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            page: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; fix: remove it, and run the same command again") from error
        return page


def _run(page: Mapping[str, Any]) -> dict[str, Any]:
    """The last run that a page tells of; the only one that pages of earlier versions know."""
    return {"time": page["updated"], **{name: page[name] for name in ("package_version", "versions", "machine")}}
