from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import records
from modelmoat.core.records import Record, append_record, pack_bits
from modelmoat.core.runs import RunInfo, write_run

# How far each defense lowers fidelity, the accuracy it costs, and its mean L1.
DEFENSES = {
    "none": (0.0, 0.0, 0.0),
    "round:digits=1": (0.02, 0.0, 0.06),
    "reverse-sigmoid:beta=0.7": (0.07, 0.0, 0.41),
    "mad:epsilon=0.5": (0.16, 0.004, 0.5),
    "label-noise:rate=0.3": (0.21, 0.031, 0.62),
}
ATTACKS = {"knockoff": 0.0, "jbda": 0.09}


def make_record(**changes: Any) -> Record:
    """One plausible record; equal fields apart from ``changes``."""
    row: dict[str, Any] = {
        "victim": "digits-cnn",
        "victim_arch": "small-cnn",
        "test_size": 600,
        "attacker_knows": "inputs of its own and the answers; not the victim's data and not the defense",
        "victim_accuracy": 0.982,
        "defended_accuracy": 0.982,
        "mean_l1": 0.0,
        "max_l1": 0.0,
        "calibration_error": 0.021,
        "defended_calibration_error": 0.021,
        "latency_ratio": 1.0,
        "clone_arch": "small-cnn",
        "clone_accuracy": 0.85,
        "fidelity": 0.86,
        "served_fidelity": 0.86,
        "agreement": pack_bits([True] * 600),
    }
    return records.make_record(**row | changes)


def curve(fidelities: dict[int, float], **changes: Any) -> list[Record]:
    """Records of one defense and one attack, one seed, by budget."""
    return [make_record(budget=budget, fidelity=value, **changes) for budget, value in fidelities.items()]


def plausible_records(seeds: Iterable[int] = (0, 1, 2), budgets: Iterable[int] = (250, 1000, 4000)) -> list[Record]:
    """Five victims behind two attacks: shapes as a real run has them."""
    return [
        _plausible(defense, attack, budget, seed)
        for defense in DEFENSES
        for attack in ATTACKS
        for budget in budgets
        for seed in seeds
    ]


def _plausible(defense: str, attack: str, budget: int, seed: int) -> Record:
    lowered, lost, distance = DEFENSES[defense]
    grown = 1 - math.exp(-((budget / 420) ** 0.55))
    wobble = 0.012 * math.sin(7.3 * seed + budget * 0.013 + 3 * len(defense) + len(attack))
    fidelity = (0.955 - lowered - ATTACKS[attack]) * (0.35 + 0.65 * grown) + wobble
    return make_record(
        defense=defense,
        attack=attack,
        budget=budget,
        seed=seed,
        unique=budget if attack == "knockoff" else budget // 2,
        fidelity=fidelity,
        served_fidelity=fidelity - lost,
        clone_accuracy=fidelity - 0.012,
        victim_accuracy=0.982 - 0.001 * seed,
        defended_accuracy=0.982 - 0.001 * seed - lost,
        mean_l1=distance,
        max_l1=min(2.0, 2 * distance),
        top1_changed=lost * 1.3,
        defended_calibration_error=0.021 + distance / 6,
        latency_ratio=1.0 + distance / 3 + 0.02 * seed if defense != "none" else 1.0,
    )


def make_info(**changes: Any) -> RunInfo:
    """The run page that goes with the records."""
    values: dict[str, Any] = {
        "commands": [
            ["modelmoat", "assess", "digits-cnn", "--data", "digits", "--attack", "knockoff", "--attack", "jbda"]
        ],
        "spec": {
            "victim": "digits-cnn",
            "attacks": list(ATTACKS),
            "defenses": list(DEFENSES),
            "budgets": [250, 1000, 4000],
            "seeds": [0, 1, 2],
            "output": "probabilities",
        },
        "spec_digest": "9f8e7d6c5b4a3921",
        "created": "2026-01-02T03:04:05+00:00",
        "updated": "2026-01-02T03:04:05+00:00",
        "package_version": "0.1.0",
        "versions": {"python": "3.11.9", "torch": "2.11.0", "numpy": "2.1.0"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 4},
        "hashes": {"test": "0f1e2d3c4b5a6978", "pool": "1122334455667788", "victim": "a1b2c3d4e5f60718"},
        "price_per_1000": 1.5,
        "target_fidelity": 0.8,
    }
    return RunInfo(**(values | changes))


def write_run_directory(directory: Path, records: Iterable[Record], **changes: Any) -> Path:
    """A run directory with ``records`` and a run page."""
    write_run(directory, make_info(**changes))
    for record in records:
        append_record(directory, record)
    return directory


class Make:
    """What the tests build their records with."""

    record = staticmethod(make_record)
    curve = staticmethod(curve)
    plausible = staticmethod(plausible_records)
    directory = staticmethod(write_run_directory)


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of four defenses, two attacks, three budgets and three seeds."""
    return write_run_directory(tmp_path_factory.mktemp("run"), plausible_records())
