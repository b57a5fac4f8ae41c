from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
    assert shown() == ["1,000", "1,000", "5,000"]

    assert _rows(page, 1) == ["1 mad:epsilon=0.1235", "label_only", "2 dcp:beta=0.5", "3 rounding:decimals=1", "none"]
    page.locator("select[name=band]").select_option("any")
    assert _rows(page, 1)[:2] == ["1 random_noise+top_k:k=2", "2 mad:epsilon=0.1235"]

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
    context.close()
