from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.errors import RunError
from modelmoat.leaderboard import Entry, Plan, arenas, rank, read_rows
from modelmoat.leaderboard.naming import read_plans
from modelmoat.studies import Study
from modelmoat.studies.folder import STUDY_FILE
from modelmoat.studies.table import write_table

Limits = dict[str, Any] | None


def written(make: Any, root: Path, name: str, limits: Limits, betas: list[float], clone: float) -> Path:
    """A study's folder, whose defense ``sigmoid`` got another parameter with every victim seed."""
    root.mkdir()
    study = Study.model_validate(
        {
            "study": name,
            "victims": {"plain": {"data": "digits", "arch": "small_cnn", "recipe": "standard"}},
            "defenses": ["none", {"defense": "reverse_sigmoid", "calibrate": limits, "name": "sigmoid"}],
            "attacks": ["knockoff"],
            "pool": "photo-patches",
            "budgets": [1000],
            "seeds": [0, 1, 2],
        }
    )
    (root / STUDY_FILE).write_text(json.dumps({"study": study.model_dump(mode="json")}))
    rows = [
        Entry(
            name, "plain", seed, label, make(defense=spec, seed=seed, victim_digest=f"{seed}" * 16, clone_accuracy=got)
        )
        for seed, beta in enumerate(betas)
        for label, spec, got in (("none", "none", 0.9), ("sigmoid", f"reverse_sigmoid:beta={beta}", clone))
    ]
    write_table(root, rows)
    return root


def test_one_name_at_two_limits_is_two_defenses_and_not_one_for_each_seed(make: Any, tmp_path: Path) -> None:
    weak = written(make, tmp_path / "s", "s", {"max_l1": 0.5}, [0.088, 0.0883, 0.0875], 0.8)
    same = written(make, tmp_path / "u", "u", {"max_l1": 0.5}, [0.088, 0.0883, 0.0875], 0.8)
    strong = written(make, tmp_path / "t", "t", {"max_l1": 1.0}, [0.252, 0.253, 0.254], 0.6)
    (arena,) = arenas(read_rows([weak, same, strong / "records.parquet"]))
    found = {one.defense: (one.worst.count, one.ranks["any"]) for one in rank(arena).standings if one.role == "defense"}
    assert found == {"sigmoid at L1 1": (3, 1), "sigmoid at L1 0.5": (3, 2)}
    assert len(arena.specs["sigmoid at L1 0.5"]) == 3


def test_one_name_at_one_limit_stays_as_it_is(make: Any, tmp_path: Path) -> None:
    sources = [written(make, tmp_path / name, name, {"max_l1": 0.5}, [0.1, 0.2, 0.3], 0.8) for name in ("s", "t")]
    (arena,) = arenas(read_rows(sources))
    assert list(arena.specs) == ["none", "sigmoid"]


@pytest.mark.parametrize(
    ("limits", "label"),
    [
        ({"max_accuracy_drop": 0.015}, "sigmoid at accuracy drop 0.015"),
        ({"max_l1": 0.5, "max_accuracy_drop": 0.01}, "sigmoid at L1 0.5 and accuracy drop 0.01"),
        (None, "sigmoid, not calibrated"),
    ],
)
def test_a_limit_in_words(make: Any, tmp_path: Path, limits: Limits, label: str) -> None:
    sources = [
        written(make, tmp_path / "s", "s", {"max_l1": 0.5}, [0.1], 0.8),
        written(make, tmp_path / "t", "t", limits, [0.2], 0.8),
    ]
    (arena,) = arenas(read_rows(sources))
    assert set(arena.specs) == {"none", "sigmoid at L1 0.5", label}


@pytest.mark.parametrize(
    ("plans", "labels"),
    [
        ([Plan("mad"), Plan("dcp")], ["strong (dcp)", "strong (mad)"]),
        ([Plan("mad", "L1 0.5"), Plan("dcp")], ["strong (dcp), not calibrated", "strong (mad) at L1 0.5"]),
        ([None, None], ["strong (study s)", "strong (study t)"]),
        ([Plan("mad"), None], ["strong (mad), not calibrated", "strong (study t)"]),
    ],
)
def test_one_name_for_two_defenses_is_told_apart(make: Any, plans: list[Plan | None], labels: list[str]) -> None:
    given = zip("st", ("mad", "dcp"), plans, strict=True)
    (arena,) = arenas([Entry(study, "plain", 0, "strong", make(defense=spec), plan) for study, spec, plan in given])
    assert list(arena.specs) == labels


def test_a_name_is_not_said_twice(make: Any) -> None:
    plans = {"s": Plan("mad"), "t": Plan("mad", "L1 0.5")}
    found = [
        Entry(study, "plain", 0, "mad", make(defense=spec), plans[study])
        for study, spec in (("s", "mad"), ("t", "mad:epsilon=0.5"))
    ]
    (arena,) = arenas(found)
    assert list(arena.specs) == ["mad at L1 0.5", "mad, not calibrated"]


def test_records_outside_of_studies_go_by_their_references(make: Any) -> None:
    found = [Entry("", "", 0, "", make(defense=spec)) for spec in ("mad", "mad:epsilon=0.5")]
    (arena,) = arenas(found)
    assert list(arena.specs) == ["mad", "mad:epsilon=0.5"]


def test_a_damaged_study_file_is_named(tmp_path: Path) -> None:
    assert read_plans(tmp_path) == {}
    (tmp_path / "study.json").write_text('{"study": {"study": "s"}}')
    with pytest.raises(RunError, match=r"study\.json is damaged: KeyError: 'victims'"):
        read_plans(tmp_path)
