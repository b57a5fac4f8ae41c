"""Units in processes of their own: one failure stops nothing else, and a killed process loses no record."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from modelmoat.core.errors import ModelmoatError
from modelmoat.studies.environment import one_thread
from modelmoat.studies.units import RECORDS_STAGE, Unit

_TRIES = 2  # of a unit whose process dies
_PAUSE = 0.5  # seconds between two messages of one stage


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


class Watch(Protocol):
    """Told how a study goes."""

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        """A worker got further."""
        ...

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        """A unit ended, well or badly."""
        ...


@dataclass
class _Lane:
    """One worker process and what it does."""

    number: int
    process: BaseProcess
    connection: Connection
    unit: Unit | None = None


@dataclass
class Engine:
    """Runs units in processes with one thread each; a unit waits for the one that it needs.

    Args:
        root: folder of the study.
        workers: processes at a time.
        command: how the study was started, for the pages of its runs.
        watch: told of progress and ends.
    """

    root: Path
    workers: int
    command: list[str]
    watch: Watch
    _lanes: list[_Lane] = field(default_factory=list)

    def run(self, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        """Run all units whose needs can be met; returns the folders of all that are done.

        Args:
            units: in the order of preference.
            done: folders of units that were done before.
        """
        waiting, tries, done = list(units), dict.fromkeys([unit.folder for unit in units], 0), set(done)
        try:
            while True:
                self._hand_out(waiting, done)
                busy = [lane for lane in self._lanes if lane.unit]
                if not busy:
                    return done
                ready = wait([lane.connection for lane in busy])
                for lane in [lane for lane in busy if lane.connection in ready]:
                    self._hear(lane, waiting, tries, done)
        finally:
            self._stop()

    def _hand_out(self, waiting: list[Unit], done: set[Path]) -> None:
        free = [lane for lane in self._lanes if lane.unit is None]
        for unit in [unit for unit in waiting if unit.needs is None or unit.needs in done]:
            if not free and len(self._lanes) < self.workers:
                free.append(self._start())
            if not free:
                return
            lane = free.pop(0)
            lane.unit = unit
            lane.connection.send(unit)
            waiting.remove(unit)
            self.watch.progress(lane.number, unit, Progress("starting", 0, 1))

    def _hear(self, lane: _Lane, waiting: list[Unit], tries: dict[Path, int], done: set[Path]) -> None:
        unit = lane.unit
        if unit is None:
            return
        try:
            message = lane.connection.recv()
        except (EOFError, OSError):
            message = self._died(lane, unit, waiting, tries)
            if message is None:
                return
        if isinstance(message, Progress):
            self.watch.progress(lane.number, unit, message)
            return
        lane.unit = None
        if not message.error:
            done.add(unit.folder)
        self.watch.ended(lane.number, unit, message)

    def _died(self, lane: _Lane, unit: Unit, waiting: list[Unit], tries: dict[Path, int]) -> Outcome | None:
        """Put the unit of a dead process back, or give it up; its records are on disk either way."""
        lane.process.join()
        self._lanes.remove(lane)
        tries[unit.folder] += 1
        if tries[unit.folder] < _TRIES:
            waiting.insert(0, unit)
            return None
        code = lane.process.exitcode
        return Outcome(
            error=f"its process died {_TRIES} times, last with exit code {code}; fix: fewer --workers if memory ran out"
        )

    def _start(self) -> _Lane:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        number = next(n for n in range(self.workers) if n not in {lane.number for lane in self._lanes})
        with one_thread():
            process = context.Process(target=serve, args=(there, self.root, self.command), daemon=True)
            process.start()
        there.close()
        lane = _Lane(number, process, here)
        self._lanes.append(lane)
        return lane

    def _stop(self) -> None:
        for lane in self._lanes:
            if lane.unit:
                lane.process.terminate()
            lane.connection.close()
        for lane in self._lanes:
            lane.process.join()
        self._lanes.clear()


def serve(connection: Connection, root: Path, command: list[str]) -> None:
    """Run units as they come, until the other end closes."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to heed
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            unit: Unit = connection.recv()
            connection.send(run_unit(unit, root, command, _throttled(connection.send)))


def run_unit(unit: Unit, root: Path, command: list[str], send: Callable[[Progress], None]) -> Outcome:
    """Run a unit and turn whatever happens into an outcome."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        try:
            cells = unit.run(root, command, lambda *progress: send(Progress(*progress)))
            error, trace = "", ""
        except BrokenPipeError:
            raise
        except ModelmoatError as known:
            cells, error, trace = [], str(known), ""
        except Exception as crash:
            cells, error, trace = [], f"{type(crash).__name__}: {crash}", traceback.format_exc()
    words = tuple(dict.fromkeys(str(one.message) for one in heard if issubclass(one.category, UserWarning)))
    return Outcome(tuple(cells), error, trace, words)


def _throttled(send: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Send what concerns records at once, and other stages now and then."""
    last = 0.0

    def throttled(progress: Progress) -> None:
        nonlocal last
        if progress.stage == RECORDS_STAGE or time.monotonic() - last > _PAUSE:
            last = time.monotonic()
            send(progress)

    return throttled
