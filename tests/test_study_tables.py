"""Tables of studies in the documentation's pages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from modelmoat.studies.table import write_table
from study_rows import row

ROOT = Path(__file__).parent.parent


# clone accuracy in percent, for seeds 0 and 1, by defense and attacker
CLONES = {
    ("none", "knockoff"): (60, 70),
    ("none", "data_at_hand"): (80, 82),
    ("label_only", "knockoff"): (50, 54),
    ("label_only", "data_at_hand"): (79, 79),
    ("dcp", "knockoff"): (20, 24),
    ("dcp", "data_at_hand"): (78, 81),
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one study of three defenses, two attackers and a baseline without queries, two seeds and two budgets."""
    rows = []
    for (defense, attack), accuracies in CLONES.items():
        for seed, accuracy in enumerate(accuracies):
            for budget in (100, 1000):
                lost = 0.05 if (defense, attack) == ("dcp", "knockoff") else 0.01
                values = {"clone_accuracy": accuracy / 100 if budget == 1000 else 0.1, "fidelity": 0.5, "mean_l1": 0.3}
                values |= {"defended_accuracy": 0.9 - lost, "seed": seed, "budget": budget, "sent": budget}
                cell = f"{defense} {attack} {seed} {budget}"
                rows.append(row(cell, defense=defense, victim_seed=seed, attack=attack, **values))
    for seed in range(2):
        row_of_none = {"attack": "no_victim", "clone_accuracy": 0.99, "fidelity": 0.1, "mean_l1": 0.3, "seed": seed}
        row_of_none |= {"defended_accuracy": 0.89, "budget": 1000, "sent": 0}
        rows.append(row(f"n{seed}", defense="none", victim_seed=seed, **row_of_none))
    (tmp_path / "tried").mkdir()
    write_table(tmp_path / "tried", rows)
    return tmp_path


@pytest.fixture(scope="module")
def tables() -> Any:
    spec = importlib.util.spec_from_file_location("study_tables", ROOT / "docs" / "study_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(tables: Any, results: Path, asked: str) -> list[list[str]]:
    """Cells of the table that a page gets."""
    page = f"before\n<!-- table: {asked} -->\nold\n<!-- /table -->\nafter"
    text = tables.updated(page, results)
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "old" not in text
    assert tables.updated(text, results) == text
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_attackers_by_defense_at_the_largest_budget(tables: Any, results: Path) -> None:
    head, rule, *rows = filled(tables, results, "attacks tried")
    assert head == ["defense", "served", "mean L1", "`knockoff`", "`data_at_hand`", "`no_victim`"]
    assert rule == ["---", "---:", "---:", "---:", "---:", "---:"]
    assert rows[0][3].startswith("65.0 ± 63.5")  # Student's t of one degree of freedom: 12.706 x 5
    assert rows[1][5] == ""
    assert rows[2][:3] == ["`dcp`", "87.0 ± 0.0", "0.30"]  # 85 and 89 by attacker, equal for both seeds


def test_victims_without_defenses(tables: Any, tmp_path: Path) -> None:
    values = {"attack": "knockoff", "budget": 10, "sent": 10, "mean_l1": 0.0}
    rows = [
        row(name, victim=name, defense="none", clone_accuracy=accuracy, defended_accuracy=0.9, **values)
        for name, accuracy in (("plain", 0.7), ("trained", 0.3))
    ]
    (tmp_path / "bare").mkdir()
    write_table(tmp_path / "bare", rows)
    head, _, *lines = filled(tables, tmp_path, "attacks bare")
    assert head == ["victim", "served", "`knockoff`"]
    assert [[line[0], line[2]] for line in lines] == [["plain", "70.0"], ["trained", "30.0"]]


def test_another_column(tables: Any, results: Path) -> None:
    rows = filled(tables, results, "attacks tried fidelity")
    assert rows[2][3] == "50.0 ± 0.0"


def test_the_best_attacker_that_asks_is_bold(tables: Any, results: Path) -> None:
    _, _, *rows = filled(tables, results, "suite tried")
    assert rows[:3] == [
        ["`knockoff`", "65.0", "52.0", "22.0"],
        ["`data_at_hand`", "**81.0**", "**79.0**", "**79.5**"],
        ["`no_victim`", "99.0", "", ""],
    ]
    assert rows[3] == ["served", "89.0", "89.0", "87.0"]


def test_winners_are_compared_with_the_floor_of_their_kind(tables: Any, results: Path) -> None:
    _, rule, _, _, dcp = filled(tables, results, "winners tried")
    assert rule == ["---", "---:", "---", "---:", "---:", "---", "---:", "---:"]
    assert dcp[:3] == ["`dcp`", "87.0", "`data_at_hand`"]
    assert dcp[4].startswith("+0.5 ± 19.1")  # 78 - 79 and 81 - 79
    assert dcp[5:7] == ["`knockoff`", "22.0 ± 25.4"]
    assert dcp[7].startswith("\N{MINUS SIGN}30.0 ± 0.0")


def test_curves(tables: Any, results: Path) -> None:
    head, _, *rows = filled(tables, results, "budgets tried")
    assert head == ["defense", "attacker", "100", "1,000"]
    assert rows[0] == ["`none`", "`knockoff`", "10.0 ± 0.0", "65.0 ± 63.5"]
    assert rows[2] == ["`none`", "`no_victim`", "", "99.0 ± 0.0"]


def test_tables_of_the_site_are_those_of_the_results(tables: Any) -> None:
    for path in tables.PAGES:
        page = path.read_text(encoding="utf-8")
        assert "<!-- table: " in page
        assert tables.updated(page) == page, "run: python docs/study_tables.py"
