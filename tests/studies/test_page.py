"""The page of a study in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelmoat.studies.claims import judge
from modelmoat.studies.page import write_page
from modelmoat.studies.study import load_study
from modelmoat.studies.table import to_table
from study_rows import row
from web import in_browser, open_page

pytestmark = in_browser
ROOT = Path(__file__).parents[2]
UNBROKEN = "x" * 200
RUNS = [{"package_version": "1.0", "machine": {"system": "Linux", "cores": 2}, "versions": {"torch": "2.11"}}]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Of a study with long names, and a failure whose words look like HTML."""
    study, _ = load_study(ROOT / "studies" / "mad.yaml")
    names = ("none", "label_only", "mad", "mad_argmax", UNBROKEN)
    rows = [
        row(f"{name}-{attack}-{seed}", defense=name, attack=attack, seed=seed, sent=5000, budget=5000)
        for name in names
        for attack in ("knockoff", "knockoff:targets=label")
        for seed in range(3)
    ]
    failures = {f"plain-0 behind {UNBROKEN}": "<b>it broke</b>"}
    return write_page(tmp_path, study, rows, judge(study.claims, to_table(rows)), failures, RUNS)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_study_fits_the_screen(browser: Any, page: Path, width: int) -> None:
    opened, problems = open_page(browser, page, width)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.get_by_role("heading", level=1).inner_text() == "mad"
    for name in ("Claims on trial", "Worst case of each defense", "All results"):
        assert opened.get_by_role("heading", name=name).is_visible()
    assert opened.get_by_text("<b>it broke</b>").is_visible()
    assert opened.get_by_text("not tested", exact=True).count() >= 2
    assert problems == []
    opened.close()
