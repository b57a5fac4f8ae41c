from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.records import Record, append_record, write_parquet
from modelmoat.leaderboard import Entry, write_leaderboard
from records import make_record

Make = Callable[..., Record]


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


def bare(records: list[Record]) -> list[Entry]:
    """Rows as those of a folder of assess."""
    return [Entry("", "", 0, "", record) for record in records]


@pytest.fixture(scope="session")
def make() -> Make:
    return make_record


@pytest.fixture(scope="session")
def rows() -> Callable[[list[Record]], list[Entry]]:
    return bare


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of three rankings, from a finished folder and from one that is not."""
    root = tmp_path_factory.mktemp("leaderboard")
    for name in ("finished", "unfinished"):
        (root / name).mkdir()
    write_parquet(root / "finished", [*plausible(), *plausible(budget=5000)])
    hostile = make_record(data="a/<b>&c", defense="<script>alert(1)</script>", attack="../../x", clone_accuracy=0.5)
    fewer = [record for record in plausible(data="a/<b>&c") if not record.defense.startswith("rounding")]
    for record in [hostile, *fewer]:
        append_record(root / "unfinished", record)
    return write_leaderboard([root / "finished", root / "unfinished"], root / "site").parent
