"""Units in processes of their own: one failure stops nothing else, and a killed process loses no record."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from modelmoat.core.errors import ModelmoatError
from modelmoat.core.memory import keep_freed_memory
from modelmoat.studies.engine import Death, Message, Outcome, Progress, Schedule, Watch
from modelmoat.studies.environment import environment, threads
from modelmoat.studies.study import Study
from modelmoat.studies.units import RECORDS_STAGE, Unit

_PAUSE = 0.5  # seconds between two messages of one stage


@dataclass(frozen=True)
class LocalEngine:
    """Runs units in processes of this machine, with one thread each."""

    workers: int

    def check(self, study: Study) -> None:
        """Every study can run here."""

    def run(self, root: Path, command: list[str], watch: Watch, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        """Run all units whose needs can be met; returns the folders of all that are done."""
        crew = _Processes(root, self.workers, command)
        try:
            return Schedule(crew, watch).run(units, done)
        finally:
            crew.stop()


@dataclass
class _Lane:
    """One worker process."""

    process: BaseProcess
    connection: Connection
    busy: bool = False


class _Processes:
    """Processes that take one unit after the other."""

    def __init__(self, root: Path, size: int, command: list[str]) -> None:
        self.size = size
        self._root, self._command = root, command
        self._lanes: dict[int, _Lane] = {}

    def start(self, lane: int, unit: Unit) -> None:
        if lane not in self._lanes:
            self._lanes[lane] = self._open()
        self._lanes[lane].connection.send(unit)
        self._lanes[lane].busy = True

    def hear(self) -> Iterator[tuple[int, Message]]:
        busy = {lane.connection: number for number, lane in self._lanes.items() if lane.busy}
        ready = wait(list(busy))
        for connection, number in busy.items():
            if connection in ready:
                yield number, self._message(number)

    def _message(self, number: int) -> Message:
        lane = self._lanes[number]
        try:
            message: Progress | Outcome = lane.connection.recv()
        except (EOFError, OSError):
            lane.process.join()
            del self._lanes[number]
            return Death(f"with exit code {lane.process.exitcode}")
        lane.busy = isinstance(message, Progress)
        return message

    def _open(self) -> _Lane:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        with environment(threads(1)):
            process = context.Process(target=serve, args=(there, self._root, self._command), daemon=True)
            process.start()
        there.close()
        return _Lane(process, here)

    def stop(self) -> None:
        for lane in self._lanes.values():
            if lane.busy:
                lane.process.terminate()
            lane.connection.close()
        for lane in self._lanes.values():
            lane.process.join()


def serve(connection: Connection, root: Path, command: list[str]) -> None:
    """Run units as they come, until the other end closes; end with the process that started this one, however it ends."""
    import torch

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to heed
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            unit: Unit = connection.recv()
            connection.send(run_unit(unit, root, command, throttled(connection.send)))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # in the middle of a unit, which is asked for again by the next start


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


def throttled(send: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Send what concerns records at once, and other stages now and then."""
    last = 0.0

    def relay(progress: Progress) -> None:
        nonlocal last
        if progress.stage == RECORDS_STAGE or time.monotonic() - last > _PAUSE:
            last = time.monotonic()
            send(progress)

    return relay
