"""Studies on a Ray cluster: one head without CPUs and two nodes with one CPU each, all on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmoat import __version__
from modelmoat.core.errors import OptionError, RunError
from modelmoat.core.locks import locked
from modelmoat.core.records import read_records
from modelmoat.core.runs import RunInfo
from modelmoat.studies import RayEngine, cluster, load_study, mirrored
from modelmoat.studies.engine import Outcome, Progress
from modelmoat.studies.environment import environment
from modelmoat.studies.sites import SharedFolder
from modelmoat.studies.units import RECORDS_STAGE, Unit, plan_units

Bench = Callable[..., Any]
Rows = Callable[[Path], list[dict[str, Any]]]
Write = Callable[..., Path]

FAILING = (
    "  - none\n",
    "  - none\n  - name: hopeless\n    defense: label_only+reverse_sigmoid\n    calibrate: {max_l1: 0.0001, images: 50}\n",
)
LONE = ("  - {defense: reverse_sigmoid, calibrate: {max_l1: 0.5, images: 50}}\n", "")
SMALL = {"object_store_memory": 80_000_000}


def join(found: Any, cache: Path) -> None:
    found.add_node(num_cpus=1, env_vars={"MODELMOAT_CACHE": str(cache)}, **SMALL)


@contextlib.contextmanager
def place(kind: str, study: Path, tmp_path: Path) -> Iterator[tuple[Path, Path, str | None]]:
    """The folder to run in, the folder where machines write, and its URL if they do not share it."""
    if kind == "folder":
        yield tmp_path / "out", tmp_path / "out", None
        return
    bucket = tmp_path / "bucket"
    with mirrored(f"file://{bucket}", load_study(study)[0]) as root:
        yield root, bucket, f"file://{bucket}"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running cluster; each machine has a cache of its own."""
    pytest.importorskip("ray", reason="needs pip install 'modelmoat[ray]'")
    from ray.cluster_utils import Cluster

    with environment({"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}):
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
        try:
            for number in range(2):
                join(found, tmp_path_factory.mktemp(f"machine{number}"))
            yield found
        finally:
            found.shutdown()


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[1]) == pid:
            found.append(int(folder.name))
    return found


@pytest.fixture(autouse=True)
def _open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray writes no token to the user's home."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def raylet(node: Any) -> int:
    """The process of a node that starts its workers."""
    (process,) = node.all_processes["raylet"]
    return process.process.pid


def workers(node: Any) -> list[int]:
    """Processes of a node that run a unit now."""
    if not node.live_processes():
        return []
    return [pid for pid in children(raylet(node)) if b"ray::work" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "url"])
def test_two_machines_make_the_same_records(
    nodes: Any,
    write: Write,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    bench: Bench,
    rows: Rows,
    kind: str,
) -> None:
    study, busy = write(FAILING), set()

    def look(unit: Unit, progress: Progress) -> None:
        busy.update(node.unique_id for node in nodes.list_all_nodes() if workers(node))

    with place(kind, study, tmp_path) as (out, _, url):
        spread = bench(study, out, engine=RayEngine(nodes.address, url=url), on_progress=look)
    alone = bench(study, tmp_path / "inline")
    assert len(busy) == 2
    assert rows(out) == rows(tmp_path / "inline")
    result = spread.result
    assert (result.records, result.ran, result.failed, result.blocked) == (8, 5, 2, 0)
    assert {name: one.error for name, one in spread.outcomes.items()} == {
        name: one.error for name, one in alone.outcomes.items()
    }
    page = RunInfo.model_validate_json(next(out.glob("runs/*/*/run.json")).read_bytes())
    assert page.machine["torch_threads"] == 1
    assert not list(out.glob(".seen*"))
    if url:
        assert len(list(tmp_path_factory.getbasetemp().glob("machine?0/studies"))) == 2
        shutil.rmtree(out)
    with place(kind, study, tmp_path):
        again = bench(study, out)  # all that is done came back
    assert (again.result.records, again.result.ran, again.result.failed) == (8, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "kind"), [("process", "folder"), ("machine", "folder"), ("machine", "url")])
def test_what_is_lost_loses_no_record(
    nodes: Any, write: Write, tmp_path: Path, bench: Bench, loss: str, kind: str
) -> None:
    study, before = write(("seeds: [0, 1]", "seeds: [0]"), LONE), []

    def lose_once(unit: Unit, progress: Progress) -> None:
        if before or progress != Progress(RECORDS_STAGE, 1, 2):
            return
        before.extend(read_records(there / unit.folder))
        (node,) = [node for node in nodes.list_all_nodes() if workers(node)]
        if loss == "process":
            os.kill(*workers(node), signal.SIGKILL)
        else:
            nodes.remove_node(node, allow_graceful=False)

    with place(kind, study, tmp_path) as (out, there, url):
        engine = RayEngine(nodes.address, workers=1, url=url)
        result = bench(study, out, engine=engine, on_progress=lose_once).result
    if loss == "machine":
        join(nodes, tmp_path / "cache")
    assert (result.records, result.ran, result.failed, result.blocked) == (2, 2, 0, 0)
    (folder,) = (out / "runs" / "plain-0").iterdir()
    records = read_records(folder)
    assert before
    assert len(records) == 2
    assert records[: len(before)] == before  # the same to the microsecond of its queries


@pytest.mark.slow
def test_what_no_machine_has_is_refused(nodes: Any, write: Write, tmp_path: Path, bench: Bench) -> None:
    with pytest.raises(RunError, match=r"Ray has 0 GPUs, and a unit takes 0\.5; fix: add a machine"):
        bench(
            write(("study: tiny", "study: tiny\ndevice: cuda")),
            tmp_path / "out",
            engine=RayEngine(nodes.address, gpu_share=0.5),
        )


@pytest.mark.slow
def test_without_an_address_ray_starts_here(write: Write, tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("ray", reason="needs pip install 'modelmoat[ray]'")
    study = write(("seeds: [0, 1]", "seeds: [0]"), LONE)
    result = bench(study, tmp_path / "out", engine=RayEngine(workers=1)).result
    assert (result.records, result.ran, result.failed) == (2, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("address", "words"), [("127.0.0.1:1", "no answer in 4 s"), ("nonsense", "Invalid address")])
def test_an_address_without_a_cluster_is_refused(
    write: Write, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    pytest.importorskip("ray", reason="needs pip install 'modelmoat[ray]'")
    monkeypatch.setattr(cluster, "_PATIENCE", 4.0)
    with pytest.raises(OptionError, match=f"--address {address}: no Ray cluster to use: .*{words}.*; fix: HOST:PORT"):
        bench(write(), tmp_path / "out", engine=RayEngine(address))
    assert not (tmp_path / "out").exists()


def test_without_the_package_it_says_what_to_install(
    write: Write, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"package ray, which is not installed; fix: pip install 'modelmoat\[ray\]'"):
        bench(write(), tmp_path / "out", engine=RayEngine())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "ray://head:10001"}, "--address ray://head:10001: Ray Client is not supported; fix"),
        ({"gpu_share": 0.0}, "--gpu-share 0.0: expected a number above 0 and up to 1"),
        ({"gpu_share": 2.0}, "--gpu-share 2.0: expected a number above 0 and up to 1"),
    ],
)
def test_misuse(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        RayEngine(**settings)


@pytest.fixture
def training(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Progress | Outcome]]:
    """Let a task of Ray train the victim of the tiny study in this process; what it sends."""

    monkeypatch.chdir("/")  # and back

    def call(mark: str = "mark", version: str = __version__) -> list[Progress | Outcome]:
        (tmp_path / "mark").touch()
        (unit,), _ = plan_units(load_study(write())[0])
        return list(cluster.work(unit, SharedFolder(tmp_path, mark), ["modelmoat"], version, tmp_path))

    return call


def test_a_task_tells_how_far_it_is_and_then_how_it_ended(training: Callable[..., list[Any]], tmp_path: Path) -> None:
    *progress, outcome = training()
    assert progress
    assert all(isinstance(one, Progress) and one.stage == "training" for one in progress)
    assert outcome == Outcome()
    assert Path.cwd() == tmp_path


def test_a_machine_that_cannot_serve_is_refused(training: Callable[..., list[Any]], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"does not see {tmp_path}; fix: an --out folder that all machines share"):
        training(mark="elsewhere")
    with pytest.raises(RunError, match=f"has modelmoat {__version__}, the study was started with 0.0; fix: install"):
        training(version="0.0")


def test_a_task_waits_for_the_process_of_an_earlier_try(
    training: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = locked(tmp_path / "victims" / "plain-0")
    held.__enter__()
    pauses = iter([lambda: None, lambda: held.__exit__(None, None, None)])
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: next(pauses)())
    assert training()[-1] == Outcome()
    assert not list(pauses)
