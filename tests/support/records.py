"""Records in tests."""

from __future__ import annotations

from typing import Any

from modelmoat.core.records import Record, pack_bits

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
    names = (
        "victim",
        "victim_digest",
        "data",
        "output_kind",
        "pool",
        "clone_arch",
        "defense",
        "attack",
        "budget",
        "seed",
    )
    row.setdefault("cell", "/".join(str(row[name]) for name in names))
    return Record(**row)
