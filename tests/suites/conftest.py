"""A good victim of digits, a pool that lies far from them, and false defenses that have names here alone."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from modelmoat.assessment import AssessmentSpec, assess
from modelmoat.attacks import parse_attack
from modelmoat.core.records import Record
from modelmoat.data import load, load_splits
from modelmoat.defenses import DEFENSES, parse_defense
from modelmoat.recipes import TrainingJob, create_recipe, train_victim
from modelmoat.training import FitSettings

BUDGET = 600
_FIT = FitSettings(epochs=30, min_steps=120, lr=0.05, precision="float32")
_DATA = "digits,pool=0.4"
_BRIGHTNESS = 0.7  # of the photographs behind the digits of the pool
_COPIES = 3

Attacked = Callable[..., list[Record]]

collect_ignore = ["false_defenses.py", "counting_defenses.py"]  # loaded here, once


def _sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


FALSE_DEFENSES = _sibling("false_defenses").FALSE_DEFENSES
_sibling("counting_defenses")  # adds its own


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``false_defense`` runs with each of them."""
    if "false_defense" in metafunc.fixturenames:
        metafunc.parametrize("false_defense", list(FALSE_DEFENSES))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The false defenses have their names while a test of this folder runs; latencies are timed once."""
    DEFENSES.names()  # all others are there
    monkeypatch.setattr(DEFENSES, "_classes", {**DEFENSES._classes, **FALSE_DEFENSES})
    monkeypatch.setattr("modelmoat.assessment.latency._FEWEST", 1)
    monkeypatch.setattr("modelmoat.assessment.latency._MOST", 1)


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact of a small_cnn that is right and mostly sure on digits."""
    directory = tmp_path_factory.mktemp("victims") / "sure"
    fit = FitSettings(epochs=40, lr=0.05, precision="float32")
    job = TrainingJob(
        splits=load_splits(_DATA), data=_DATA, data_seed=0, arch="small_cnn", fit=fit, seed=0, directory=directory
    )
    train_victim(create_recipe("standard"), job)
    return directory


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digits before photographs: a clone of the undefended victim learns from them, and a gate can tell them from digits."""
    digits, photos = load(f"{_DATA},split=pool"), load("photo-patches,size=8,grey")
    rows = torch.arange(len(digits)).repeat(_COPIES)
    behind = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[: len(rows)]
    images = torch.maximum(digits.batch(rows).float(), _BRIGHTNESS * photos.batch(behind).float())
    path = tmp_path_factory.mktemp("pools") / "far.npz"
    np.savez(path, images=images.round().to(torch.uint8)[:, 0].numpy(), labels=digits.labels[rows].numpy())
    return f"npz:{path}"


@pytest.fixture(scope="session")
def attacked(victim: Path, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """Records of a defense under attackers given by name, or under a suite; the same question is answered once."""

    @cache
    def run(defense: str, *attacks: str, suite: str | None = None) -> list[Record]:
        spec = AssessmentSpec(
            victim=str(victim),
            pool=pool,
            attacks=tuple(map(parse_attack, attacks)),
            suite=suite,
            defenses=(parse_defense(defense),),
            budgets=(BUDGET,),
            clone_fit=_FIT,
        )
        return assess(spec, tmp_path_factory.mktemp("run"))

    return run
