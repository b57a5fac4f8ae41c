from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelmoat.studies import Engine, Study, StudyResult, VictimShelf, load_study, read_tables, run_study
from modelmoat.studies.engine import Outcome, Progress, Watch
from modelmoat.studies.units import Unit
from modelmoat.studies.workers import run_unit

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


@dataclass
class Benched:
    """What a run of a study told, and what it came to."""

    on_progress: Callable[[Unit, Progress], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    counts: list[tuple[int, int]] = field(default_factory=list)
    result: StudyResult | None = None

    def units(self, done: int, total: int) -> None:
        self.counts.append((done, total))

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        self.on_progress(unit, progress)

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        self.outcomes[str(unit)] = outcome


class Inline:
    """An engine that runs one unit after the other in this process."""

    workers = 1

    def check(self, study: Study) -> None:
        pass

    def run(self, root: Path, command: list[str], watch: Watch, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        done = set(done)
        for unit in units:
            if unit.needs is None or unit.needs in done:
                outcome = run_unit(unit, root, command, partial(watch.progress, 0, unit))
                done |= set() if outcome.error else {unit.folder}
                watch.ended(0, unit, outcome)
        return done


@pytest.fixture
def bench() -> Callable[..., Benched]:
    """Run a study, in this process unless an engine is given."""

    def call(
        path: Path,
        out: Path,
        *,
        engine: Engine = Inline(),  # noqa: B008 - has no state
        shelf: Path | None = None,
        on_progress: Callable[[Unit, Progress], None] = lambda unit, progress: None,
    ) -> Benched:
        (study, document), benched = load_study(path), Benched(on_progress)
        command, kept = ["modelmoat", "bench"], VictimShelf(shelf) if shelf else None
        benched.result = run_study(study, document, out, engine=engine, command=command, watch=benched, shelf=kept)
        return benched

    return call


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """All records of a study without what differs from run to run."""

    def call(out: Path) -> list[dict[str, Any]]:
        timed = {"created", "query_seconds", "train_seconds", "latency_ratio", "latency_ratios", "latency_ms", "victim"}
        table = read_tables([out]).to_pylist()
        found = [{key: value for key, value in row.items() if key not in timed} for row in table]
        return sorted(found, key=lambda row: (row["defense_name"], row["seed"], row["attack"], row["budget"]))

    return call
