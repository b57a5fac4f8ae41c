"""In which order units run, and what becomes of those that fail or die; where they run is a crew's matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from modelmoat.studies.study import Study
from modelmoat.studies.units import Unit

_TRIES = 2  # of a unit whose process dies


@dataclass(frozen=True)
class Progress:
    """How far a unit is."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: with cells, or with an error."""

    cells: tuple[str, ...] = ()
    error: str = ""
    trace: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Death:
    """The process of a unit ended before the unit did; ``how`` follows "it died"."""

    how: str


Message = Progress | Outcome | Death


class Watch(Protocol):
    """Told how a study goes."""

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        """A worker got further."""
        ...

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        """A unit ended, well or badly."""
        ...


class Engine(Protocol):
    """Runs the units of a study somewhere."""

    @property
    def workers(self) -> int | None:
        """Units at a time; none where that is for the place to say."""
        ...

    def check(self, study: Study) -> None:
        """Raise `UsageError` for a study that cannot run there."""
        ...

    def run(self, root: Path, command: list[str], watch: Watch, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        """Run all units whose needs can be met; returns the folders of all that are done.

        Args:
            root: folder of the study.
            command: how the study was started, for the pages of its runs.
            watch: told of progress and ends.
            units: in the order of preference.
            done: folders of units that were done before.
        """
        ...


class Crew(Protocol):
    """Workers in numbered lanes, each with one unit at a time."""

    @property
    def size(self) -> int:
        """Units that it takes at a time."""
        ...

    def start(self, lane: int, unit: Unit) -> None:
        """Begin a unit in a lane that is free."""
        ...

    def hear(self) -> Iterable[tuple[int, Message]]:
        """Wait for the next messages from lanes with a unit; after an outcome or a death a lane is free."""
        ...


@dataclass
class Schedule:
    """Hands units to a crew; a unit waits for the one that it needs, and one whose process died is tried again."""

    crew: Crew
    watch: Watch
    _busy: dict[int, Unit] = field(default_factory=dict)
    _deaths: Counter[Path] = field(default_factory=Counter)

    def run(self, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        """Run all units whose needs can be met; returns the folders of all that are done."""
        waiting, done = list(units), set(done)
        while True:
            self._hand_out(waiting, done)
            if not self._busy:
                return done
            for lane, message in self.crew.hear():
                self._heard(lane, message, waiting, done)

    def _hand_out(self, waiting: list[Unit], done: set[Path]) -> None:
        free = [lane for lane in range(self.crew.size) if lane not in self._busy]
        ready = [unit for unit in waiting if unit.needs is None or unit.needs in done]
        for lane, unit in zip(free, ready, strict=False):
            self.crew.start(lane, unit)
            self._busy[lane] = unit
            waiting.remove(unit)
            self.watch.progress(lane, unit, Progress("starting", 0, 1))

    def _heard(self, lane: int, message: Message, waiting: list[Unit], done: set[Path]) -> None:
        unit = self._busy[lane]
        if isinstance(message, Progress):
            self.watch.progress(lane, unit, message)
            return
        del self._busy[lane]
        if isinstance(message, Death):
            self._deaths[unit.folder] += 1
            if self._deaths[unit.folder] < _TRIES:
                waiting.insert(0, unit)  # its records are on disk
                return
            fix = "fix: fewer --workers if memory ran out"
            message = Outcome(error=f"its process died {_TRIES} times, last {message.how}; {fix}")
        if not message.error:
            done.add(unit.folder)
        self.watch.ended(lane, unit, message)
