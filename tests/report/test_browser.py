from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmoat.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


def _open(browser: Any, path: Path, width: int, **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 800}, **options)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    return page, problems


def _fidelities(page: Any) -> list[float]:
    cells = "[...document.querySelectorAll('table[data-sortable] tbody tr')].map(row => +row.cells[4].dataset.number)"
    return [float(value) for value in page.evaluate(cells)]


def test_page_in_a_real_browser(browser: Any, full_run: Path) -> None:
    path = write_report(full_run)
    for width, shown, hidden in ((1280, ".wide", ".narrow"), (390, ".narrow", ".wide")):
        page, problems = _open(browser, path, width)
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
    page, _ = _open(browser, write_report(full_run), 390)
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
