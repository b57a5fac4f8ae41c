"""Running a study: what is missing, then the table, the verdicts and the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelmoat.core.locks import locked
from modelmoat.studies.check import Check, Cost
from modelmoat.studies.claims import Judgment, check_claims, judge, write_claims
from modelmoat.studies.document import Document
from modelmoat.studies.engine import Engine, Outcome, Progress
from modelmoat.studies.environment import shared_images
from modelmoat.studies.folder import StudyFolder
from modelmoat.studies.page import write_page
from modelmoat.studies.shelf import VictimShelf
from modelmoat.studies.study import Study
from modelmoat.studies.table import write_table
from modelmoat.studies.units import Unit, plan_units


class StudyWatch(Protocol):
    """Told how a study goes."""

    def units(self, done: int, total: int) -> None:
        """Units that are done or failed, and units there are."""
        ...

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        """A worker got further."""
        ...

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        """A unit ended, well or badly."""
        ...


@dataclass(frozen=True)
class StudyResult:
    """What a run of a study came to.

    Attributes:
        records: rows in the table.
        ran: units that ran now.
        failed: units that failed now.
        blocked: units that did not run, since their victim failed.
        judgments: on the claims.
        page: of the study.
    """

    records: int
    ran: int
    failed: int
    blocked: int
    judgments: tuple[Judgment, ...]
    page: Path


def estimate(study: Study, document: Document) -> Cost:
    """Check a study and tell what it takes as a whole; runs nothing.

    Raises:
        OptionError: a part does not fit; the message has the line and the key.
    """
    trainings, assessments = plan_units(study)
    check_claims(study.claims, document)
    with shared_images():
        check = Check(study, document)
        check.run(trainings)
        return check.cost(trainings, assessments)


def run_study(
    study: Study,
    document: Document,
    out: Path,
    *,
    engine: Engine,
    command: list[str],
    watch: StudyWatch,
    shelf: VictimShelf | None = None,
) -> StudyResult:
    """Run every unit of a study that is not done yet, and write its table, verdicts and page.

    Interrupted at any point and called again, it goes on. A unit that fails is noted in ``failures.jsonl`` and stops no
    other. Victims that another study put on the shelf are not trained again.

    Raises:
        OptionError: the study cannot work; nothing ran.
        RunError: the folder is in use, or holds another study.
    """
    check_claims(study.claims, document)
    engine.check(study)
    trainings, assessments = plan_units(study)
    with locked(out), shared_images():
        folder = StudyFolder(out)
        folder.check(study, trainings)
        for unit in trainings:
            if shelf:
                shelf.take(unit, out)
        units: list[Unit] = [*trainings, *assessments]
        done = {unit.folder for unit in units if folder.is_done(unit)}
        missing = [unit for unit in units if unit.folder not in done]
        if missing:
            Check(study, document).run(trainings)
        folder.open(study, command, runs=bool(missing))
        ends = _Ends(folder, watch, len(done), len(done) + len(missing))
        try:
            finished = engine.run(out, command, ends, missing, done)
        finally:
            table = write_table(out, folder.rows(assessments))
            for unit in filter(folder.is_done, trainings):
                if shelf:
                    shelf.put(unit, out)
        judgments = tuple(judge(study.claims, table))
        write_claims(out, judgments)
        page = write_page(out, study, folder.rows(assessments), judgments, ends.failures, folder.runs())
    unfinished = [unit for unit in missing if unit.folder not in finished]
    return StudyResult(
        records=table.num_rows,
        ran=len(missing) - len(unfinished),
        failed=len(ends.failures),
        blocked=len(unfinished) - len(ends.failures),
        judgments=judgments,
        page=page,
    )


class _Ends:
    """Notes in the folder how units end, and tells the watch."""

    def __init__(self, folder: StudyFolder, watch: StudyWatch, done: int, total: int) -> None:
        self._folder, self._watch, self._done, self._total = folder, watch, done, total
        self.failures: dict[str, str] = {}
        watch.units(done, total)

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        self._watch.progress(lane, unit, progress)

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        if outcome.error:
            self._folder.note_failure(unit, outcome.error, outcome.trace)
            self.failures[str(unit)] = outcome.error
        else:
            self._folder.mark_done(unit, outcome.cells)
        self._done += 1
        self._watch.ended(lane, unit, outcome)
        self._watch.units(self._done, self._total)
