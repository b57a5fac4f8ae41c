from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.records import Record
from modelmoat.report import baseline_sentences, write_report


def rows(make: Any, defense: str, attack: str, accuracies: tuple[float, ...], **changes: Any) -> list[Record]:
    return [
        make.record(defense=defense, attack=attack, clone_accuracy=accuracy, seed=seed, **changes)
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.fixture
def records(make: Any) -> list[Record]:
    """The baseline has 0.3; behind ``strong`` clones have 0.2 and 0.36, 0.28 on the mean; behind ``weak`` more."""
    idle = {"sent": 0, "unique": 0}
    return [
        *rows(make, "none", "no_victim", (0.25, 0.35), **idle),
        *rows(make, "none", "knockoff", (0.8, 0.9)),
        *rows(make, "strong", "knockoff", (0.2, 0.36)),
        *rows(make, "strong", "copycat", (0.1, 0.1)),
        *rows(make, "strong", "knockoff", (0.9, 0.9), budget=10),
        *rows(make, "weak", "knockoff", (0.1, 0.1)),
        *rows(make, "weak", "copycat", (0.3, 0.32)),
    ]


def test_clones_that_are_no_better_than_asking_nothing_stole_nothing(records: list[Record]) -> None:
    (sentence,) = baseline_sentences(records)
    assert sentence == (
        "strong: nothing was stolen with 1,000 queries: the best clone (knockoff, 28.0% right) is no better than one that asks "
        "nothing (no_victim, 30.0%)."
    )


def test_without_a_baseline_nothing_is_said(records: list[Record]) -> None:
    assert baseline_sentences([record for record in records if record.sent]) == []
    other = [record if record.sent else record.model_copy(update={"victim_digest": "other"}) for record in records]
    assert baseline_sentences(other) == []


def test_the_page_says_it(records: list[Record], make: Any, tmp_path: Path) -> None:
    make.directory(tmp_path, records)
    assert "nothing was stolen with 1,000 queries" in write_report(tmp_path).read_text()
