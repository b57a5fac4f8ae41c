from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.records import Record
from modelmoat.report import Gap, gap_sentences, gaps, write_report


def of(defense: str, records: list[Record]) -> Gap:
    (found,) = [gap for gap in gaps(records) if gap.defense == defense]
    return found


@pytest.fixture
def grid(make: Any) -> Any:
    return lambda worst, **changes: build(make, worst, **changes)


def row(make: Any, defense: str, attack: str, accuracy: float, **changes: Any) -> Record:
    record: Record = make.record(defense=defense, attack=attack, clone_accuracy=accuracy, **changes)
    return record


def build(make: Any, worst: tuple[float, float], **changes: Any) -> list[Record]:
    """Floor of 0.70 and 0.72 by its better attacker, ceiling 0.9, and one defense, for two seeds."""
    rows = []
    for seed, accuracy in enumerate(worst):
        rows += [
            row(make, "none", "knockoff", 0.9, seed=seed),
            row(make, "label_only", "knockoff", 0.70 + 0.02 * seed, seed=seed),
            row(make, "label_only", "jbda", 0.5 + 0.4 * seed, seed=seed),  # better for one seed, not on the whole
            row(make, "mad", "knockoff", accuracy - 0.2, seed=seed, **changes),
            row(make, "mad", "e3", accuracy, seed=seed, **changes),
        ]
    return rows


def test_the_gap_is_the_worst_case_less_the_floor_seed_by_seed(grid: Any) -> None:
    gap = of("mad", grid((0.75, 0.79)))
    assert (gap.defense, gap.attack, gap.floor_attack) == ("mad", "e3", "knockoff")
    assert (gap.worst, gap.floor, gap.ceiling) == pytest.approx((0.77, 0.71, 0.9))
    assert gap.gap.mean == pytest.approx(0.06)
    assert gap.gap.half_width == pytest.approx(12.706 * 0.01, rel=1e-3)  # 5 and 7 points, two seeds
    assert gap.bought == ""


def test_an_undefended_victim_has_a_gap_which_serving_labels_alone_would_close(grid: Any) -> None:
    gap = of("none", grid((0.75, 0.79)))
    assert (gap.attack, gap.worst, gap.ceiling) == ("knockoff", pytest.approx(0.9), pytest.approx(0.9))
    assert gap.gap.mean == pytest.approx(0.19)


def test_a_gap_below_zero_says_what_bought_it(grid: Any) -> None:
    costly = {"top1_changed": 0.1, "defended_accuracy": 0.902, "defense_stateful": True}
    gap = of("mad", grid((0.5, 0.5), **costly))
    assert gap.gap.mean == pytest.approx(-0.21)
    for words in ("10.0% of labels changed", "8.0% of accuracy", "state kept between queries"):
        assert words in gap.bought
    free = of("mad", grid((0.5, 0.5), defense_keeps_top1=True))
    assert free.bought.startswith("nothing")
    hidden = of("mad", grid((0.5, 0.5)))
    assert hidden.bought.startswith("labels changed for the attacker's inputs")
    assert re.search(
        r"gap to floor \N{MINUS SIGN}21.0.*worst case e3, 50.0%; floor 71.0%, ceiling 90.0%", gap_sentences([gap])[0]
    )


def test_budgets_are_equal_and_baselines_do_not_count(grid: Any, make: Any) -> None:
    rows = grid((0.75, 0.75))
    rows += [
        row(make, "label_only", "knockoff", 0.99, seed=0, budget=9000),
        row(make, "none", "e3", 0.99, seed=0, budget=9000),
    ]
    rows += [row(make, "label_only", "no_victim", 0.99, seed=0).model_copy(update={"sent": 0})]
    assert of("mad", rows).floor == pytest.approx(0.71)


@pytest.mark.parametrize("kind", ["label", "probabilities+explanation"])
def test_where_labels_are_no_floor_there_is_no_gap(kind: str, grid: Any) -> None:
    assert gaps([record.model_copy(update={"output_kind": kind}) for record in grid((0.7, 0.7))]) == []


def test_without_a_floor_there_is_no_gap(grid: Any) -> None:
    assert gaps([record for record in grid((0.7, 0.7)) if record.defense != "label_only"]) == []


def test_the_page_shows_gaps(grid: Any, make: Any, tmp_path: Path) -> None:
    make.directory(tmp_path, grid((0.75, 0.79)))
    page = write_report(tmp_path).read_text()
    assert "Gap to floor" in page
    assert "+6.0" in page
