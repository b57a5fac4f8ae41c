from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.records import write_parquet
from modelmoat.leaderboard import write_leaderboard
from web import in_browser, open_page

pytestmark = in_browser


def _rows(page: Any, board: int = 0) -> list[str]:
    """Visible places and defenses of one ranking."""
    script = (
        "number => [...document.querySelectorAll('section[data-board]')[number].querySelectorAll('tbody tr')]"
        ".filter(row => row.offsetHeight)"
        ".map(row => ['.place', 'a'].map(part => row.querySelector(part).innerText).join(' ').trim())"
    )
    found: list[str] = page.evaluate(script, board)
    return found


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["index.html", "defense/mad.html", "attack/knockoff.html", "attack/dfme.html"])
def test_pages_fit_the_screen(browser: Any, site: Path, name: str, width: int) -> None:
    page, problems = open_page(browser, site / name, width)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_role("heading", level=1).is_visible()
    assert problems == []
    page.close()


def test_filters_hide_rankings_and_rows(browser: Any, site: Path) -> None:
    page, problems = open_page(browser, site / "index.html", 390)
    boards = page.locator("section[data-board]")
    shown = lambda: [board.get_attribute("data-budget") for board in boards.all() if board.is_visible()]  # noqa: E731
    assert shown() == ["1,000", "5,000", "1,000"]

    strict = ["1 mad:epsilon=0.1235", "label_only", "2 dcp:beta=0.5", "3 rounding:decimals=1", "none"]
    assert _rows(page) == [*strict, "– random_noise+top_k:k=2"]
    beyond = page.get_by_text("over the limit: costs 20.0 points").nth(0)
    assert beyond.is_visible()
    page.locator("select[name=band]").select_option("any")
    assert _rows(page)[:2] == ["1 random_noise+top_k:k=2", "2 mad:epsilon=0.1235"]
    assert not beyond.is_visible()
    assert page.get_by_text("Ranked: 4 defenses, whatever accuracy they cost users").count() == 2
    page.locator("select[name=band]").select_option("1")
    assert _rows(page)[0] == strict[0]

    page.locator("select[name=budget]").select_option("5,000")
    assert shown() == ["5,000"]
    page.locator("select[name=data]").select_option("a/<b>&c")
    assert shown() == []
    assert page.get_by_text("No ranking has all of these").is_visible()
    assert problems == []
    page.close()


def test_links_work_from_disk(browser: Any, site: Path) -> None:
    page, problems = open_page(browser, site / "index.html", 1280)
    page.get_by_role("link", name="mad:epsilon=0.1235").first.click()
    assert page.get_by_role("heading", level=1).inner_text() == "mad"
    page.get_by_role("link", name="Leaderboard").click()
    assert page.title().startswith("Leaderboard")
    assert problems == []
    page.close()


def test_everything_is_there_without_javascript(browser: Any, site: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert not page.locator(".filters").is_visible()
    assert all(row.is_visible() for row in page.locator("tr[data-ranks]").all())
    with_scripts, _ = open_page(browser, site / "index.html", 1280)
    assert [_rows(page, number) for number in range(3)] == [_rows(with_scripts, number) for number in range(3)]
    assert _rows(page)[-1] == "– random_noise+top_k:k=2"  # it loses 20 points
    assert page.get_by_text("over the limit: costs 20.0 points").first.is_visible()
    with_scripts.close()
    context.close()


@pytest.mark.parametrize("width", [390, 500, 1280])
@pytest.mark.parametrize("name", ["index.html", "defense/mad.html"])
def test_a_table_says_so_exactly_where_it_scrolls(browser: Any, site: Path, name: str, width: int) -> None:
    page, _ = open_page(browser, site / name, width)
    wider = page.evaluate("[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth > one.clientWidth)")
    assert [sign.is_visible() for sign in page.locator(".sideways").all()] == wider
    page.close()


def test_attackers_that_are_missing_are_counted_and_unfold(browser: Any, make: Any, tmp_path: Path) -> None:
    attacks = ["knockoff", "jbda", "maze"]
    tried = [make(defense=name, attack=attack) for name in ("none", "mad") for attack in attacks]
    write_parquet(tmp_path, [*tried, make(defense="dcp")])
    page, _ = open_page(browser, write_leaderboard([tmp_path], tmp_path / "site"), 390)
    missing, sentence = page.locator("details"), "not ranked: not tested by 2 attackers"
    assert missing.inner_text().strip() == sentence
    page.get_by_text(sentence).click()
    assert missing.inner_text().split() == [*sentence.split(), "jbda", "and", "maze"]
    page.close()
