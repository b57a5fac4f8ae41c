from __future__ import annotations

from pathlib import Path
from typing import Any

from modelmoat.report import write_report
from web import in_browser, open_page

pytestmark = in_browser


def _fidelities(page: Any) -> list[float]:
    cells = "[...document.querySelectorAll('table[data-sortable] tbody tr')].map(row => +row.cells[4].dataset.number)"
    return [float(value) for value in page.evaluate(cells)]


def test_page_in_a_real_browser(browser: Any, full_run: Path) -> None:
    path = write_report(full_run)
    for width, shown, hidden in ((1280, ".wide", ".narrow"), (390, ".narrow", ".wide")):
        page, problems = open_page(browser, path, width)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(f"#curves {shown} svg").is_visible()
        assert not page.locator(f"#curves {hidden} svg").is_visible()
        assert page.locator(f"#defenses {shown} svg").is_visible()

        heading = page.get_by_role("button", name="Fidelity", exact=True)
        heading.click()
        assert _fidelities(page) == sorted(_fidelities(page))
        heading.press("Enter")
        assert _fidelities(page) == sorted(_fidelities(page), reverse=True)
        assert page.locator("table[data-sortable] th[aria-sort]").get_attribute("aria-sort") == "descending"
        assert problems == []
        page.close()


def test_small_text_of_drawings_is_legible_on_a_phone(browser: Any, full_run: Path) -> None:
    page, _ = open_page(browser, write_report(full_run), 390)
    script = (
        "Math.min(...[...document.querySelectorAll('.narrow text')].map(node => node.getBoundingClientRect().height))"
    )
    assert page.evaluate(script) >= 11
    page.close()


def test_table_works_without_javascript(browser: Any, full_run: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(write_report(full_run).as_uri())
    assert page.locator("table[data-sortable] tbody tr").count() == 30
    assert page.locator("table[data-sortable] button").count() == 0
    context.close()
