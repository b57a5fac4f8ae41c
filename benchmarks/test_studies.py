"""A study with two workers against one, against its own work, and once more when it is finished."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelmoat.studies import read_tables

LEAST_GAIN = 1.7  # of two workers with one thread each over one
MOST_OVERHEAD = 1.0  # seconds for a cell beyond its own work
MOST_AGAIN = 5.0  # seconds for a finished study

DATA = "digits,pool=0.4"
DEFENSES = ("none", "label_only", "rounding:decimals=1", "dcp:beta=0.9", "reverse_sigmoid:beta=0.4", "top_k:k=2")
ATTACKS = ("knockoff", "knockoff:targets=label")
SEEDS = (0, 1)
BUDGET, EPOCHS, STEPS = 300, 6, 400

STUDY = f"""\
study: throughput
victims:
  plain:
    data: "{DATA}"
    arch: small_cnn
    recipe: standard
    fit: {{epochs: {EPOCHS}, batch_size: 32, lr: 0.05, precision: float32}}
defenses: {list(DEFENSES)}
attacks: {list(ATTACKS)}
pool: "{DATA},split=pool"
budgets: [{BUDGET}]
seeds: {list(SEEDS)}
clone:
  fit: {{min_steps: {STEPS}}}
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two cores")
def test_two_workers_a_small_overhead_and_a_quick_rerun(tmp_path: Path, report: Callable[..., None]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    cells = len(DEFENSES) * len(ATTACKS) * len(SEEDS)

    one = seconds("bench", study, "--out", tmp_path / "one", "--workers", "1")
    two = seconds("bench", study, "--out", tmp_path / "two", "--workers", "2")
    assert len(read_tables([tmp_path / "two"])) == cells
    report("two workers against one", one / two, f"{one:.0f} s against {two:.0f} s for {cells} cells")

    alone = sum(seconds(*command) for seed in SEEDS for command in by_hand(seed, tmp_path / f"hand{seed}"))
    overhead = (one - alone) / cells
    made_of = f"{one:.0f} s as a study, {alone:.0f} s by hand, {cells} cells"
    report("overhead of a cell", overhead, made_of, unit=" s")

    again = seconds("bench", study, "--out", tmp_path / "two", "--workers", "2")
    report("a finished study once more", again, f"{cells} cells", unit=" s")
    assert one / two >= LEAST_GAIN
    assert overhead < MOST_OVERHEAD
    assert again < MOST_AGAIN


def by_hand(seed: int, folder: Path) -> list[tuple[object, ...]]:
    """The commands that do the work of one seed without a study."""
    fit = ("--epochs", EPOCHS, "--batch-size", 32, "--lr", 0.05, "--precision", "float32")
    train = (
        "train",
        "standard",
        "--data",
        DATA,
        "--arch",
        "small_cnn",
        "--seed",
        seed,
        *fit,
        "--out",
        folder / "victim",
    )
    grid = [*(("--attack", attack) for attack in ATTACKS), *(("--defense", defense) for defense in DEFENSES)]
    options = (
        "--pool",
        f"{DATA},split=pool",
        "--budget",
        BUDGET,
        "--seed",
        seed,
        "--clone-min-steps",
        STEPS,
        "--no-bracket",
    )
    assess = ("assess", folder / "victim", *(word for pair in grid for word in pair), *options, "--out", folder / "run")
    return [train, assess]


def seconds(*words: object) -> float:
    """Wall-clock time of a command in a process with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "modelmoat", *map(str, words)], env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - start
