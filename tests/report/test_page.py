from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from modelmoat.core.errors import RunError
from modelmoat.report import write_report
from web import Page

HOSTILE = "<script>alert(1)</script>"


def _write(make: Any, directory: Path, records: list[Any], **changes: Any) -> str:
    return write_report(make.directory(directory, records, **changes)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(full_run: Path) -> str:
    return write_report(full_run).read_text(encoding="utf-8")


def test_page_has_the_numbers(html: str) -> None:
    text = " ".join(Page(html).text.split())
    for part in (
        "About 1,000 queries get an attacker most of this model",
        "93.0% ± 1.9",
        "mad:epsilon=0.5",
        "not within 4,000",
        "over 3.9×",
        "30 rows from 90 records",
        "4,000 / 2,000",
        "about 1,000 (90% of the best)",
        "One input answered is one query",
        "modelmoat assess digits-cnn --data digits --attack knockoff --attack jbda",
        "0f1e2d3c4b5a6978",
        "photo-patches (12,000 inputs)",
        "11.3.4",
        "Not assessed",
    ):
        assert part in text


def test_page_loads_nothing(html: str) -> None:
    page = Page(html)
    assert {"img", "iframe", "object", "embed", "source"}.isdisjoint(page.tags)
    outside = [(tag, url) for tag, url in page.loads if not url.startswith(("#", "data:"))]
    assert {tag for tag, _ in outside} <= {"a"}
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)[^)]*\)", html)


def test_ids_are_unique_and_references_resolve(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    references = set(re.findall(r"url\(#([^)]+)\)", html)) | {url[1:] for _, url in page.loads if url.startswith("#")}
    assert references <= set(page.ids)


def test_drawings_speak_and_follow_the_theme(html: str) -> None:
    found = re.findall(r"<svg [^>]*role=\"img\".*?</svg>", html, re.DOTALL)
    drawings = [ET.fromstring(text) for text in found]  # noqa: S314 - our own page
    assert len(drawings) == 4
    for drawing in drawings:
        assert drawing.get("aria-label")
        assert drawing.findtext("title")
        assert "DejaVu" not in ET.tostring(drawing, encoding="unicode")
        colors = re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", ET.tostring(drawing, encoding="unicode"))
        assert set(colors) <= {"#000000"}  # clip paths and defaults only


def test_points_say_their_numbers(html: str) -> None:
    assert "<title>undefended, knockoff: 93.0% ± 1.9 after 4,000 queries</title>" in html


def test_same_run_gives_the_same_bytes(make: Any, tmp_path: Path) -> None:
    records = make.plausible(seeds=(0, 1), budgets=(100, 1000))
    first = _write(make, tmp_path, records)
    assert write_report(tmp_path).read_text(encoding="utf-8") == first


def test_hostile_names_stay_text(make: Any, tmp_path: Path) -> None:
    records = make.curve({100: 0.5, 1000: 0.9}) + make.curve(
        {100: 0.4, 1000: 0.6}, defense=HOSTILE, attack="$x_$ & \n 'q'"
    )
    hostile = {"attacker_knows": HOSTILE, "pool": HOSTILE, "clone_arch": HOSTILE}
    html = _write(
        make,
        tmp_path,
        [row.model_copy(update=hostile) for row in records],
        commands=[["modelmoat", HOSTILE], [HOSTILE]],
        spec={HOSTILE: {HOSTILE: [HOSTILE, None]}},
        hashes={HOSTILE: HOSTILE},
        machine={HOSTILE: HOSTILE},
    )
    page = Page(html)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in html
    assert "alert(1)" in page.text


def test_every_command_is_shown_oldest_first(make: Any, tmp_path: Path) -> None:
    commands = [["modelmoat", "assess", "my victim"], ["modelmoat", "assess", "b"], ["modelmoat", "assess", "a"]]
    html = _write(make, tmp_path, make.curve({100: 0.5, 1000: 0.9}), commands=commands)
    assert re.findall(r"<div class=\"command\" data-copy><pre><code>(.*?)</code>", html) == [
        "modelmoat assess &#39;my victim&#39;",
        "modelmoat assess b",
        "modelmoat assess a",
    ]
    assert "This folder was written by 3 commands" in html


def test_one_command_is_not_counted(html: str) -> None:
    assert html.count("data-copy>") == 1
    assert "This folder was written by" not in html


def test_where_no_defense_is_needed_none_is_recommended(make: Any, tmp_path: Path) -> None:
    records = [*make.curve({100: 0.4, 1000: 0.5}), *make.curve({100: 0.3, 1000: 0.4}, defense="mad")]
    numbers = _write(make, tmp_path, records).split('<ul class="numbers">')[1].split("</ul>")[0]
    assert "Defense needed to stay under 80.0%" in numbers
    assert "None at these budgets" in numbers
    assert "Without any, the best clone agrees on 50.0% within 1,000 queries." in numbers
    assert "mad" not in numbers
    assert "Cheapest" not in numbers


def test_names_that_matplotlib_cannot_measure(make: Any, tmp_path: Path) -> None:
    html = _write(make, tmp_path, make.curve({100: 0.5, 1000: 0.9}, attack="攻擊 🜁"))
    assert "攻擊 🜁" in html


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (lambda row: row.seed == 0, "One seed, no interval."),
        (lambda row: row.defense != "none", "The run has no rows of the undefended victim."),
        (lambda row: row.defense == "none", "No defense tested"),
        (lambda row: row.defense == "none" and row.budget == 250 and row.seed == 0, "at most 250"),
        (lambda row: row.attack == "knockoff" or row.defense == "none", "not fully measured"),
    ],
)
def test_partial_runs(make: Any, tmp_path: Path, keep: Any, expected: str) -> None:
    html = _write(make, tmp_path, [row for row in make.plausible() if keep(row)])
    assert expected in " ".join(Page(html).text.split())


def test_many_defenses_and_one_victim_more(make: Any, tmp_path: Path) -> None:
    records = [
        row
        for victim in ("a", "b")
        for place in range(20)
        for row in make.curve({100: 0.9 - 0.02 * place, 1000: 0.95 - 0.02 * place}, defense=f"d{place}", victim=victim)
    ]
    assert "d19 (b)" in _write(make, tmp_path, records)


def test_robustness_is_shown_where_it_was_measured(make: Any, tmp_path: Path, html: str) -> None:
    assert "Robust accuracy" not in html
    assert "Transfer" not in html
    measured = {
        "robust_attack": "pgd:steps=5",
        "robust_epsilon": 8 / 255,
        "robust_norm": "linf",
        "robust_size": 1000,
        "clone_robust_accuracy": 0.125,
        "transfer": 0.75,
    }
    records = [
        *(make.record(seed=seed, robust_accuracy=0.25 + 0.01 * seed, **measured) for seed in (0, 1, 2)),
        make.record(defense="mad:epsilon=0.5", **measured),  # a victim without gradients
    ]
    text = _write(make, tmp_path, records)
    for heading in ("Robust accuracy", "Clone robust accuracy", "Transfer"):
        assert f">{heading}</th>" in text
    assert "pgd:steps=5, changes of at most 0.0314 (linf), 1,000 test images" in text
    for part in ("26.0% ± 2.5", "12.5% ± 0.0", "75.0%", "not measured"):
        assert part in text
    cells = re.search(r"<table data-sortable>.*?</table>", text, re.DOTALL)
    assert cells
    assert cells[0].count('<th scope="col"') == 15 + 3
    assert cells[0].count("<td") == 2 * (15 + 3 - 1)


def test_no_records(make: Any, tmp_path: Path) -> None:
    make.directory(tmp_path, [])
    with pytest.raises(RunError, match=rf"{re.escape(str(tmp_path))} has no records.*fix: run modelmoat assess"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_no_run_page(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{re.escape(str(tmp_path))} has no run.json.*fix: "):
        write_report(tmp_path)


def test_summary_needs_no_drawing_library() -> None:
    code = "import sys, modelmoat.report; print({'matplotlib', 'jinja2', 'scipy'} & set(sys.modules))"
    result = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
