"""Units as tasks of a Ray cluster, on whichever machine has room; without an address, on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from modelmoat import __version__
from modelmoat.core.errors import ModelmoatError, OptionError, RunError, require
from modelmoat.core.locks import LOCK_FILE, locked
from modelmoat.core.memory import keep_freed_memory
from modelmoat.data.storage import CACHE_VARIABLE
from modelmoat.studies.engine import Death, Message, Outcome, Progress, Schedule, Watch
from modelmoat.studies.environment import environment, threads
from modelmoat.studies.sites import ObjectStore, Site, shared
from modelmoat.studies.study import Study
from modelmoat.studies.units import RECORDS_STAGE, TrainUnit, Unit
from modelmoat.studies.workers import run_unit, throttled

_PATIENCE = 20.0  # seconds for a cluster to answer
_PROBE = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
except Exception as error:
    sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
"""
_GRACE = 60.0  # seconds for the process of a lost try to let go of its folder
_SAVE = 300.0  # seconds between two saves of a unit without a new record
_STORE = 80_000_000  # bytes of a local instance's object store, near the least that Ray takes; messages are small
_DEATHS = {"NodeDiedError": "with its machine", "OutOfMemoryError": "when memory ran out"}


@dataclass(frozen=True)
class RayEngine:
    """Runs units as Ray tasks of one CPU and one thread each.

    Args:
        address: ``HOST:PORT`` of a cluster, or ``auto`` on one of its machines; if left out, Ray is started here.
        workers: tasks at a time; if left out, as many as there is room for.
        gpu_share: of a GPU, for each task of a study whose device is cuda.
        url: of an object store with the study, of which the folder that runs is the copy on this machine; if left out,
            all machines share the folder.
    """

    address: str | None = None
    workers: int | None = None
    gpu_share: float = 1.0
    url: str | None = None

    def __post_init__(self) -> None:
        share = self.gpu_share
        require(0 < share <= 1, f"--gpu-share {share}: expected a number above 0 and up to 1")
        require(
            not (self.address or "").startswith("ray://"),
            f"--address {self.address}: Ray Client is not supported; fix: start the command on a machine of the cluster "
            "with --address auto",
        )
        require(
            not (self.url or "").startswith("memory:"),
            f"--out {self.url}: only one process sees it; fix: a folder, or the URL of an object store",
        )

    def check(self, study: Study) -> None:
        """Refuse a cluster that does not answer, and a device that Ray cannot give, before anything runs."""
        _ray()
        require(
            not study.device.startswith("cuda:"),
            f"device {study.device}: Ray chooses the GPU of each unit; fix: device: cuda",
        )
        if self.address:
            _check_address(self.address)

    def run(self, root: Path, command: list[str], watch: Watch, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        """Run all units whose needs can be met; returns the folders of all that are done."""
        ray, needed = _ray(), {unit.needs for unit in units}
        with self._session(ray), self._site(root.absolute()) as site:
            for folder in done & needed:
                site.publish(folder)
            crew = _Tasks(ray, self._needs(units), self.workers, site, command)
            return Schedule(crew, _Settling(watch, site)).run(units, done)

    def _site(self, root: Path) -> contextlib.AbstractContextManager[Site]:
        return contextlib.nullcontext(ObjectStore(self.url)) if self.url else shared(root)

    def _needs(self, units: Sequence[Unit]) -> dict[str, float]:
        """What one task takes."""
        on_gpu = any((one if isinstance(one, TrainUnit) else one.victim).device == "cuda" for one in units)
        return {"CPU": 1, "GPU": self.gpu_share if on_gpu else 0}

    @contextlib.contextmanager
    def _session(self, ray: Any) -> Iterator[None]:
        here = {"num_cpus": self.workers, "include_dashboard": False, "object_store_memory": _STORE}
        options = {"address": self.address} if self.address else {"address": "local", **here}
        own = {name: value for name, value in os.environ.items() if name.startswith("MODELMOAT_")}
        own.pop(CACHE_VARIABLE, None)  # a matter of each machine
        quiet = {"RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0")}
        with environment(quiet):
            try:
                ray.init(
                    **options,
                    runtime_env={"env_vars": own | threads(1)},
                    log_to_driver=False,
                    logging_level="error",
                )
            except Exception as error:
                raise RunError(
                    f"Ray at {options['address']} cannot be used: {_first_line(error)}; fix: start the command on a machine "
                    "of the cluster, with the versions of Ray and Python that it has"
                ) from error
            try:
                yield
            finally:
                ray.shutdown()


@dataclass(frozen=True)
class _Settling:
    """Passes on how a study goes, and what is noted of units that ended."""

    watch: Watch
    site: Site

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        self.watch.progress(lane, unit, progress)

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        self.watch.ended(lane, unit, outcome)
        self.site.publish(unit.folder)


class _Tasks:
    """Tasks that run now; each is a stream of messages, of which the last one is its outcome."""

    def __init__(
        self, ray: Any, needs: Mapping[str, float], workers: int | None, site: Site, command: list[str]
    ) -> None:
        self._ray, self._needs, self._workers, self._site = ray, needs, workers, site
        self._arguments = (site, command, __version__, Path.cwd())
        resources = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"]}
        self._task = ray.remote(num_returns="streaming", max_retries=0, **resources)(work)
        self._lanes: dict[Any, tuple[int, Unit]] = {}
        there = ray.cluster_resources()
        for name, amount in needs.items():
            if there.get(name, 0) < amount:
                raise RunError(
                    f"Ray has {there.get(name, 0):g} {name}s, and a unit takes {amount:g}; fix: add a machine with more, or "
                    "change the device of the study"
                )

    @property
    def size(self) -> int:
        """Asked for, or what all machines of now have room for."""
        return self._workers or max(1, room(self._ray.cluster_resources(), self._needs))

    def start(self, lane: int, unit: Unit) -> None:
        self._lanes[self._task.remote(unit, *self._arguments)] = lane, unit

    def hear(self) -> Iterator[tuple[int, Message]]:
        ready, _ = self._ray.wait(list(self._lanes), fetch_local=False)
        for stream in ready:
            message, (lane, unit) = self._message(stream), self._lanes[stream]
            if not isinstance(message, Progress):
                del self._lanes[stream]
            yield lane, self._site.collect(unit, message) if isinstance(message, Outcome) else message

    def _message(self, stream: Any) -> Message:
        errors = self._ray.exceptions
        try:
            message: Progress | Outcome = self._ray.get(next(stream))
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, ModelmoatError):
                return Outcome(error=str(cause))
            return Outcome(error=_first_line(cause), trace=str(error))
        except (errors.RayError, StopIteration) as error:
            name = type(error).__name__
            return Death(_DEATHS.get(name, f"with {name}"))
        return message


def room(there: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Tasks that fit.

    >>> room({"CPU": 16, "GPU": 2}, {"CPU": 1, "GPU": 0.25}), room({"CPU": 16}, {"CPU": 1, "GPU": 0})
    (8, 16)
    """
    return min(int(there.get(name, 0) / amount) for name, amount in needs.items() if amount)


def work(unit: Unit, site: Site, command: list[str], version: str, started_in: Path) -> Iterator[Progress | Outcome]:
    """Run a unit in a process of Ray: how far it is, then how it ended."""
    import torch

    if version != __version__:
        raise RunError(
            f"a machine of the cluster has modelmoat {__version__}, the study was started with {version}; "
            "fix: install the same version on all machines"
        )
    torch.set_num_threads(1)
    keep_freed_memory()
    if started_in.is_dir():
        os.chdir(started_in)  # a study may name data by relative paths
    _outlast_earlier_try(site.root / unit.folder)
    site.fetch(unit)
    messages: SimpleQueue[Progress | Future[Outcome]] = SimpleQueue()
    tell = _saving(site, unit, throttled(messages.put))
    with ThreadPoolExecutor(1) as beside:  # this thread sends what that one tells
        beside.submit(run_unit, unit, site.root, command, tell).add_done_callback(messages.put)
        while isinstance(message := messages.get(), Progress):
            yield message
    site.save(unit)
    yield message.result()


def _saving(site: Site, unit: Unit, send: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Save at each record, and now and then between them, before it is told."""
    last = time.monotonic()

    def relay(progress: Progress) -> None:
        nonlocal last
        if progress.stage == RECORDS_STAGE or time.monotonic() - last > _SAVE:
            site.save(unit)
            last = time.monotonic()
        send(progress)

    return relay


def _outlast_earlier_try(folder: Path) -> None:
    """Wait while a process that was given up still works in a folder; who holds it longer is told by the unit."""
    until = time.monotonic() + _GRACE
    while (folder / LOCK_FILE).exists() and time.monotonic() < until:
        with contextlib.suppress(RunError), locked(folder):
            return
        time.sleep(1)


def _check_address(address: str) -> None:
    """Ask a cluster whether it is there; Ray itself would wait for minutes."""
    command = [sys.executable, "-c", _PROBE, address]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)  # noqa: S603
    except subprocess.TimeoutExpired:
        reason = f"no answer in {_PATIENCE:g} s"
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or f"exit code {error.returncode}").splitlines()[-1]
    else:
        return
    raise OptionError(
        f"--address {address}: no Ray cluster to use: {reason}; fix: HOST:PORT as ray start --head told it, or auto on a "
        "machine of the cluster; RAY_AUTH_MODE=token if the cluster has a token"
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise OptionError(
            "--engine ray needs the package ray, which is not installed; fix: pip install 'modelmoat[ray]'"
        ) from error
    return ray
