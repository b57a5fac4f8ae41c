from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.records import Record, append_record, pack_bits, write_parquet
from modelmoat.leaderboard import write_leaderboard
from modelmoat.studies.table import Row

Make = Callable[..., Record]
_ROW = {
    "package_version": "0.1.0",
    "created": "2026-01-02T03:04:05+00:00",
    "victim": "victims/plain",
    "victim_digest": "a1b2c3d4e5f60718",
    "victim_arch": "small_cnn",
    "victim_recipe": "standard",
    "output_kind": "probabilities",
    "data": "digits",
    "test_digest": "0f1e2d3c4b5a6978",
    "test_size": 8,
    "pool": "photo-patches",
    "pool_digest": "1122334455667788",
    "pool_size": 12000,
    "defense": "none",
    "attack": "knockoff",
    "defense_aware": False,
    "attacker_knows": "a pool",
    "budget": 1000,
    "seed": 0,
    "victim_accuracy": 0.9,
    "mean_l1": 0.25,
    "max_l1": 0.5,
    "top1_changed": 0.0,
    "calibration_error": 0.02,
    "defended_calibration_error": 0.02,
    "latency_ratio": 1.5,
    "clone_arch": "small_cnn",
    "clone_steps": 2000,
    "clone_accuracy": 0.8,
    "agreement": pack_bits([True] * 8),
    "query_seconds": 0.5,
    "train_seconds": 12.0,
    "device": "cpu",
    "precision": "float32",
}


def make_record(lost: float = 0.0, **changes: Any) -> Record:
    """One plausible record, whose served answers are less accurate by ``lost``."""
    row: dict[str, Any] = _ROW | changes
    row.setdefault("defended_accuracy", row["victim_accuracy"] - lost)
    for name in ("fidelity", "served_fidelity"):
        row.setdefault(name, row["clone_accuracy"])
    row.setdefault("relative_accuracy", row["clone_accuracy"] / row["victim_accuracy"])
    for name in ("sent", "unique"):
        row.setdefault(name, row["budget"])
    names = ("victim_digest", "data", "output_kind", "pool", "clone_arch", "defense", "attack", "budget", "seed")
    return Record(**row | {"cell": "/".join(str(row[name]) for name in names)})


def plausible(**changes: Any) -> list[Record]:
    """Ceiling, floor and four defenses behind two attackers, two seeds."""
    soft_and_label = {
        "none": (0.86, 0.80, 0.0),
        "label_only": (0.78, 0.78, 0.0),
        "dcp:beta=0.5": (0.70, 0.79, 0.0),
        "mad:epsilon=0.123456789": (0.60, 0.72, 0.004),
        "rounding:decimals=1": (0.85, 0.80, 0.0),
        "random_noise+top_k:k=2": (0.30, 0.35, 0.2),
    }
    return [
        make_record(
            defense=defense, attack=attack, clone_accuracy=accuracy + 0.01 * seed, seed=seed, lost=lost, **changes
        )
        for defense, (soft, label, lost) in soft_and_label.items()
        for attack, accuracy in (("knockoff", soft), ("knockoff:targets=label", label))
        for seed in (0, 1)
    ]


def bare(records: list[Record]) -> list[Row]:
    """Rows as those of a folder of assess."""
    return [Row("", "", 0, "", record) for record in records]


@pytest.fixture(scope="session")
def make() -> Make:
    return make_record


@pytest.fixture(scope="session")
def rows() -> Callable[[list[Record]], list[Row]]:
    return bare


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of three rankings, from a finished folder and from one that is not."""
    root = tmp_path_factory.mktemp("leaderboard")
    for name in ("finished", "unfinished"):
        (root / name).mkdir()
    write_parquet(root / "finished", [*plausible(), *plausible(budget=5000)])
    hostile = make_record(data="a/<b>&c", defense="<script>alert(1)</script>", attack="../../x", clone_accuracy=0.5)
    for record in [hostile, *plausible(data="a/<b>&c")]:
        append_record(root / "unfinished", record)
    return write_leaderboard([root / "finished", root / "unfinished"], root / "site").parent
