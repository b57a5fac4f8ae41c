"""What all tests share: one thread per process, and no cache outside the test's own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmoat.data import ImageSet, Splits, load, load_splits
from modelmoat.models import ModelCard
from modelmoat.recipes import TrainingJob, create_recipe, train_victim
from modelmoat.training import FitSettings
from web import chromium

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded images go to a folder of the test run, never to the user's cache."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("MODELMOAT_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def tiny_victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact of a small_cnn after three quick epochs on digits that keep a pool of 0.4 apart; never change it."""
    directory = tmp_path_factory.mktemp("victims") / "digits"
    fit = FitSettings(epochs=3, batch_size=32, lr=0.05, precision="float32")
    data = "digits,pool=0.4"
    job = TrainingJob(
        splits=load_splits(data), data=data, data_seed=0, arch="small_cnn", fit=fit, seed=0, directory=directory
    )
    train_victim(create_recipe("standard"), job)
    return directory


@pytest.fixture(scope="session")
def int8_victim(tiny_victim: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    """The tiny victim after post-training quantization; never change it."""
    pytest.importorskip("torchao")
    directory = tmp_path_factory.mktemp("victims") / "digits-int8"
    data = "digits,pool=0.4"
    job = TrainingJob(
        splits=load_splits(data),
        data=data,
        data_seed=0,
        arch="small_cnn",
        fit=FitSettings(epochs=1),
        seed=0,
        directory=directory,
    )
    return directory, train_victim(create_recipe("ptq", start=str(tiny_victim), calibration_images=256), job)


@pytest.fixture(scope="session")
def _loaded() -> tuple[Callable[..., ImageSet], Callable[..., Splits]]:
    return cache(load), cache(load_splits)


@pytest.fixture
def quick_assessments(_loaded: tuple[Callable, Callable], monkeypatch: pytest.MonkeyPatch) -> None:
    """Assessments that decode each data set once in all tests and time little."""
    monkeypatch.setattr("modelmoat.assessment.scene.load", _loaded[0])
    monkeypatch.setattr("modelmoat.assessment.subject.load_splits", _loaded[1])
    monkeypatch.setattr("modelmoat.assessment.latency._FEWEST", 1)
    monkeypatch.setattr("modelmoat.assessment.latency._MOST", 1)
    monkeypatch.setattr("modelmoat.attacks._jacobian._ROUND_STEPS", 5)


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run something in two processes on this machine, by torch's launcher."""

    def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        with subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process:
            try:
                out, err = process.communicate(timeout=100)
            finally:
                process.terminate()  # the launcher ends its processes
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return launch


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser; its tests have the marks `web.in_browser`."""
    with chromium() as launched:
        yield launched
