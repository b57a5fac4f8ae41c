from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelmoat.assessment import AssessmentSpec, assess
from modelmoat.attacks import create_attack
from modelmoat.core.records import Record
from modelmoat.defenses import create_defense
from modelmoat.models import TorchPredictor
from modelmoat.training import FitSettings

POOL = "digits,pool=0.4,split=pool"
FIT = FitSettings(epochs=1, min_steps=5, lr=0.05, precision="float32")

TIMED = ("created", "query_seconds", "train_seconds", "latency_ratio", "latency_ratios", "latency_ms")
"""Fields that differ from run to run."""


@pytest.fixture(autouse=True)
def _quick(quick_assessments: None) -> None:
    """Short rounds and timings, data decoded once."""


@pytest.fixture
def spec(tiny_victim: Path) -> Callable[..., AssessmentSpec]:
    """A specification of two cells, knockoff with 10 and 25 queries, with changes."""

    def build(**changes: Any) -> AssessmentSpec:
        values: dict[str, Any] = {
            "victim": str(tiny_victim),
            "pool": POOL,
            "attacks": (create_attack("knockoff"),),
            "defenses": (create_defense("none"),),
            "budgets": (10, 25),
            "clone_fit": FIT,
        }
        return AssessmentSpec(**(values | changes))

    return build


@pytest.fixture
def run(spec: Callable[..., AssessmentSpec], tmp_path: Path) -> Callable[..., list[Record]]:
    """Assess into one folder, ``tmp_path / "run"`` unless said otherwise."""
    return lambda out=None, observer=None, **changes: assess(
        spec(**changes), out or tmp_path / "run", observer=observer
    )


@pytest.fixture
def lasting() -> Callable[[Record], dict[str, Any]]:
    """What of a record is the same whenever and however often interrupted it was measured."""
    return lambda record: record.model_dump(exclude=set(TIMED))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Inputs of queries that reached a model; those of measurements on test images, which nobody pays, are left out."""
    from modelmoat.assessment import Kept
    from modelmoat.attacks.clones import CloneCache
    from modelmoat.victims import BatchMemory, Victim

    reached: list[Tensor] = []
    query, predict = Victim.query, TorchPredictor.predict
    paying: list[bool] = []

    def watched_query(self: Victim, inputs: Tensor, account: str = "default") -> Any:
        paying.append(True)
        try:
            return query(self, inputs, account)
        finally:
            paying.pop()

    def watched_predict(self: TorchPredictor, inputs: Tensor) -> Tensor:
        if paying:
            reached.extend(inputs)
        return predict(self, inputs)

    forgetful = Kept(answers=BatchMemory(memory_mb=0))  # every query shows
    monkeypatch.setattr("modelmoat.assessment.run.Kept", lambda: replace(forgetful, clones=CloneCache()))
    monkeypatch.setattr(Victim, "query", watched_query)
    monkeypatch.setattr(TorchPredictor, "predict", watched_predict)
    return reached


class StopAfter:
    """Raises once some records exist, or at the n-th report of a stage."""

    def __init__(self, *, records: int | None = None, stages: int | None = None) -> None:
        self._records, self._stages = records, stages
        self.told: list[tuple[int, int]] = []

    def cells(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if self._records is not None and done >= self._records:
            raise RuntimeError("stopped")

    def stage(self, name: str, done: int, total: int) -> None:
        if self._stages is not None:
            self._stages -= 1
            if not self._stages:
                raise KeyboardInterrupt


@pytest.fixture
def stop_after() -> type[StopAfter]:
    return StopAfter


@pytest.fixture
def unique_rows() -> Callable[[list[Tensor]], int]:
    return lambda rows: len(torch.unique(torch.stack(rows), dim=0))
