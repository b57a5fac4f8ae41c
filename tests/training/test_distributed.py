"""Trainings in two real processes, which torch's own launcher starts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modelmoat.core.errors import OptionError
from modelmoat.training import ALONE, World

SCRIPT = Path(__file__).with_name("together.py")
Results = list[dict[str, Any]]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("together", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


together = load_script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def done(torchrun: Launch, folder: Path) -> subprocess.CompletedProcess[str]:
    np.savez(folder / together.FILE, x=together.images().squeeze(1).numpy(), y=together.labels().numpy())
    return torchrun(SCRIPT, folder, "raise")


@pytest.fixture(scope="module")
def results(done: subprocess.CompletedProcess[str], folder: Path) -> Results:
    assert (folder / "0.pt").exists(), done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def farthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def test_two_processes_take_the_steps_of_one(results: Results) -> None:
    weights, losses = together.plain(ALONE, "lenet")
    start = together.state(together.untrained("lenet"))
    assert farthest(start, weights) > 0.01
    for result in results:
        theirs, told = result["lenet"]
        assert farthest(theirs, weights) < 1e-5
        assert told == pytest.approx(losses, abs=1e-5)


def test_a_companion_that_learns_by_itself_takes_the_steps_of_one_process(results: Results) -> None:
    expected = together.beside(ALONE)
    for result in results:
        for theirs, ours in zip(result["beside"], expected, strict=True):
            assert farthest(theirs, ours) < 1e-5


@pytest.mark.parametrize("name", ["batch_norm", "ini", "adversarial"])
def test_processes_end_with_the_same_weights(name: str, results: Results) -> None:
    """Statistics of batch norm and the student of InI included, which each process computes from its own share."""
    first, second = (result[name][0] if name == "batch_norm" else result[name] for result in results)
    assert farthest(first, second) == 0
    assert all(bool(value.isfinite().all()) for value in first.values())
    assert any("running_mean" in key and bool(value.any()) for key, value in first.items())


def test_a_killed_training_goes_on(results: Results) -> None:
    for result in results:
        assert "killed" in result["killed"]
        for resumed, whole in zip(result["resumed"], result["beside"], strict=True):
            assert farthest(resumed, whole) == 0


def test_only_the_first_process_writes_and_tells(results: Results, folder: Path) -> None:
    assert [result["steps"] for result in results] == [list(range(1, 19)), []]
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [line["loss"] for line in lines] == results[0]["lenet"][1] == results[1]["lenet"][1]


def test_a_gradient_of_one_process_is_everyones(results: Results) -> None:
    assert [result["reached"] for result in results] == [[0.75 * 2 + 0.25 * 3, 0.25 * 8, None]] * 2


def test_everyone_diverges_at_once(results: Results) -> None:
    assert results[0]["diverged"] == results[1]["diverged"]
    assert results[0]["diverged"].startswith("TrainingDiverged: the mean loss of epoch 1 is nan")


def test_processes_that_see_other_checkpoints_do_not_train(results: Results) -> None:
    for result in results:
        assert (
            "has 3, 0 epochs behind it, as each process sees it; fix: a folder that all machines share"
            in result["apart"]
        )


def test_one_process_that_fails_ends_all_and_says_why_once(
    results: Results, done: subprocess.CompletedProcess[str]
) -> None:
    assert done.returncode == 1
    assert done.stderr.count("ModelmoatError: only the last process fails") == 1
    assert "ProcessLost" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists threads where Linux does")
@pytest.mark.usefixtures("results")
def test_no_connection_outlives_the_training(folder: Path) -> None:
    for rank in range(2):
        left = (folder / f"{rank}.threads").read_text().split()
        assert left
        assert [name for name in left if "gloo" in name] == []  # it can abort the process at its end


@pytest.mark.slow
def test_a_process_that_is_killed_is_missed(torchrun: Launch, tmp_path: Path) -> None:
    done = torchrun(SCRIPT, tmp_path, "kill")
    assert done.returncode == 1
    assert done.stderr.count("ProcessLost: another process of this training is gone and did not say why") == 1


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_the_batch(size: int) -> None:
    for rows in range(2, 60):
        shares, weights = zip(*(World(rank, size).share(rows) for rank in range(size)), strict=True)
        counts = [len(range(rows)[share]) for share in shares]
        assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
        assert [weight * rows for weight in weights] == pytest.approx(counts)
        assert 1 not in counts
        assert counts[0] == max(counts)
        assert rows < 2 * size or max(counts) - min(counts) <= 1


def test_batches_too_small_for_all_are_refused() -> None:
    World(0, 3).check_batch(6, 6)
    with pytest.raises(
        OptionError, match=r"batch_size=5: 3 processes need 2 images of every batch each; fix: 6 or more"
    ):
        World(0, 3).check_batch(5, 100)
    with pytest.raises(OptionError, match=r"5 training images: 3 processes need .*fix: more images, or fewer"):
        World(0, 3).check_batch(8, 5)
    ALONE.check_batch(1, 1)


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    world = World(5, 6)
    assert (world.own_device("cuda"), world.own_device("cpu"), taken) == ("cuda:1", "cpu", [1])
    assert ALONE.own_device("cuda:1") == "cuda:1"
    with pytest.raises(OptionError, match=r"--device cuda:1: 6 processes need a GPU each; fix: --device cuda$"):
        world.own_device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        OptionError, match=r"--nproc-per-node 3: this machine has 2 CUDA devices.*fix: --nproc-per-node 2"
    ):
        world.own_device("cuda")
