from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

STUDY = """\
study: tiny
victims:
  plain:
    data: digits,pool=0.4
    arch: small_cnn
    recipe: standard
    fit: {epochs: 1, batch_size: 32, precision: float32}
    seeds: [0]
defenses:
  - none
  - {defense: reverse_sigmoid, calibrate: {max_l1: 0.5, images: 50}}
attacks: [knockoff]
pool: digits,pool=0.4,split=pool
budgets: [10, 20]
seeds: [0, 1]
clone:
  fit: {epochs: 1, min_steps: 5, precision: float32}
claims:
  - text: The clone learns something.
    source: nobody
    published: 0.5
    measure: SELECT seed, avg(clone_accuracy) FROM records WHERE defense = 'none' GROUP BY seed
    expect: "> 0.01"
"""

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quick(quick_assessments: None, _loaded: tuple[Callable, Callable], monkeypatch: pytest.MonkeyPatch) -> None:
    """Data decoded once in all tests; workers decode their own."""
    monkeypatch.setattr("modelmoat.studies.check.load", _loaded[0])
    monkeypatch.setattr("modelmoat.studies.check.load_splits", _loaded[1])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the tiny study with some of its text replaced."""

    def call(*changes: tuple[str, str]) -> Path:
        text = STUDY
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return call
