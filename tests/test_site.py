"""The site: its pages are there, its commands exist, its code runs, and it loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from modelmoat.assessment.insight import DefenseInsight
from modelmoat.attacks import parse_attack
from modelmoat.cli.app import app, run
from modelmoat.core.records import write_parquet
from modelmoat.data import load
from modelmoat.defenses import parse_defense
from modelmoat.defenses.calibration import find_dial
from modelmoat.leaderboard.methods import FAMILIES, family_pages
from modelmoat.recipes import parse_recipe
from modelmoat.studies import load_study
from modelmoat.studies.claims import Judgment, check_claims, write_claims
from modelmoat.studies.page import measured_words
from modelmoat.victims import OutputFormat
from records import make_record
from web import Page, in_browser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
METHODS = [page for family in FAMILIES for page in family_pages(family)]
CLAIM = Judgment(
    text="A <b>claim</b> with | and *stars*",
    source="Somebody et al., 2020",
    published="> 5 points",
    expect="> 0.05",
    note="another pool",
    verdict="not reproduced",
    values=(0.01, 0.02),
    mean=0.015,
    half_width=0.005,
)


@pytest.fixture(scope="module")
def docs() -> Iterator[Any]:
    """The modules that write pages."""
    sys.path.insert(0, str(DOCS))
    try:
        import method_examples
        import method_pages
        import verdicts

        yield {"examples": method_examples, "pages": method_pages, "verdicts": verdicts}
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies: one with a claim and records, one with neither claims nor records."""
    root = tmp_path_factory.mktemp("results")
    for name, judgments in (("first", [CLAIM]), ("second", [])):
        (root / name).mkdir()
        write_claims(root / name, judgments)
    records = [
        make_record(victim_recipe=recipe, victim_digest=recipe, defense=defense, attack=attack, clone_accuracy=accuracy)
        for recipe in ("standard", "ini:beta=0.1")
        for defense, accuracy in (("none", 0.8), ("label_only", 0.7), ("mad:epsilon=0.5", 0.6))
        for attack in ("knockoff", "knockoff+averaging:copies=3")
    ]
    write_parquet(root / "first", records)
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, results: Path) -> Path:
    """The site with these results, built as ``make docs`` builds it."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(DOCS, home / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(results, home / "results")
    shutil.copy(ROOT / "mkdocs.yml", home)
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    built = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr + built.stdout
    return home / "site"


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def commands(text: str) -> list[str]:
    """What follows ``modelmoat`` on the lines of the shell blocks."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    return re.findall(r"^modelmoat (.*)$", blocks, flags=re.MULTILINE)


def options(command: str) -> tuple[str, dict[str, Any]]:
    """The command and its options; raises where the command line does not have them."""
    name, *arguments = shlex.split(command, comments=True)
    found = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return name, found.make_context(name, arguments).params


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md")))
def test_commands_exist(page: str) -> None:
    found = [options(command)[0] for command in commands((DOCS / f"{page}.md").read_text(encoding="utf-8"))]
    assert found or page not in ("getting-started", "studies")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.family}-{method.name}")
def test_example_of_a_method_fits_victim_and_pool(docs: Any, method: Any) -> None:
    for name, given in map(options, commands(f"```sh\n{docs['examples'].example(method)}\n```")):
        if name == "train":
            assert parse_recipe(given["recipe"]).name == method.name
        elif name == "protect":
            assert find_dial(parse_defense(given["defense"]), 10, None)
        else:
            _check_assessment(given, method)


def _check_assessment(given: dict[str, Any], method: Any) -> None:
    pool, kind = load(given["pool"]), OutputFormat.parse(given["output"]).kind
    attacks, defenses = map(parse_attack, given["attack"] or []), [*map(parse_defense, given["defense"] or [])]
    text = " ".join([*(given["attack"] or []), *(given["defense"] or [])])
    assert method.name in re.split(r"[ +:]", text)
    for attack in attacks:
        assert kind in attack.outputs
        attack.check([int(given["budget"])], len(pool))
        attack.check_fit(pool, 10)
        for defense in defenses:
            attack.check_insight(DefenseInsight(defense))


def test_the_code_of_how_to_add_a_method_runs(tmp_path: Path) -> None:
    text = (DOCS / "add-a-method.md").read_text(encoding="utf-8")
    script = tmp_path / "methods.py"
    script.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [line.split(" queries")[0] for line in ran.stdout.splitlines()] == ["50", "200"]


def test_the_study_of_the_page_about_studies_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "studies.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    study, document = load_study(tmp_path / "study.yaml")
    check_claims(study.claims, document)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("names", [("getting-started", "reproducibility"), ("studies",)], ids="+".join)
def test_the_commands_run_one_after_the_other(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    for name in names:
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        for command in commands(text):
            with pytest.raises(SystemExit) as stopped:
                run(shlex.split(command, comments=True))
            assert stopped.value.code in (0, None), f"modelmoat {command} exited with {stopped.value.code}"
        for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            exec(compile(code, f"{name}.md", "exec"), {})  # noqa: S102 - our own page


def test_verdicts_in_the_readme_are_those_of_the_results(docs: Any) -> None:
    if not docs["verdicts"].read_studies(ROOT / "results"):
        pytest.skip("results has no study yet")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- verdicts -->" in readme
    assert docs["verdicts"].updated(readme) == readme, "run: python docs/verdicts.py"


def test_verdicts_are_counted_and_shown(docs: Any, results: Path) -> None:
    studies = docs["verdicts"].read_studies(results)
    assert [study.name for study in studies] == ["first", "second"]
    assert "| `first` | 1 | 0 | 1 | 0 | 0 |" in docs["verdicts"].table(studies)
    assert "second" in docs["verdicts"].page(studies)
    (row,) = [line for line in docs["verdicts"].claims(studies).splitlines() if line.startswith("| `first`")]
    assert row.endswith("| **not reproduced** |")


def test_without_results_pages_say_so(docs: Any, tmp_path: Path) -> None:
    assert docs["verdicts"].read_studies(tmp_path / "missing") == []
    assert "no results yet" in docs["verdicts"].page([])
    pages = docs["pages"].pages(tmp_path / "missing")
    assert len(pages) == len(METHODS) + 1
    assert "None of the published records is of this attack." in pages["methods/attack/knockoff.md"]


def test_every_method_has_a_page_with_all_its_parameters(site: Path, parsed: dict[Path, Page]) -> None:
    for method in METHODS:
        page = parsed[(site / "methods" / method.family / f"{method.name}.html").resolve()]
        text = " ".join(page.text.split())
        assert method.name in text
        for parameter in method.parameters:
            assert f"{parameter.name} {parameter.default}" in text


def test_numbers_of_records_are_on_the_pages_of_their_methods(site: Path, parsed: dict[Path, Page]) -> None:
    expected = {
        "attack/knockoff": "none 80.0%",
        "recovery/averaging": "none 80.0%",
        "defense/mad": "mad:epsilon=0.5 60.0%",
        "recipe/ini": "small_cnn, ini:beta=0.1 1,000 80.0%",
    }
    for name, numbers in expected.items():
        text = " ".join(parsed[(site / "methods" / f"{name}.html").resolve()].text.split())
        assert numbers in text, f"{name}: {text[-600:]}"


def test_verdicts_page_takes_nothing_for_markup(site: Path, parsed: dict[Path, Page]) -> None:
    page = parsed[(site / "verdicts.html").resolve()]
    text = " ".join(page.text.split())
    assert "A <b>claim</b> with | and *stars*" in text
    assert measured_words(CLAIM.interval) in text
    assert "b" not in page.tags
    assert ("a", "leaderboard/index.html") in page.loads
    assert "mad:epsilon=0.5" in parsed[(site / "leaderboard" / "index.html").resolve()].text


def test_links_lead_to_pages_and_nothing_is_loaded_from_elsewhere(parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        for tag, link in page.loads:
            if link.startswith("data:") or (tag == "a" and link.startswith("https://")):
                continue
            assert not re.match(r"(\w+:)?//", link), f"{path.name} loads {link}"
            file, _, place = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists() or path.name == "404.html", f"{path.name}: {link}"
            if place and target in parsed:
                assert place in parsed[target].ids, f"{path.name}: {link}"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served: its search needs a server, all else opens from disk."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestInABrowser:
    pytestmark = in_browser

    @pytest.mark.parametrize("width", [390, 1280])
    @pytest.mark.parametrize("name", ["index", "getting-started", "methods/defense/mad", "methods/index", "verdicts"])
    def test_pages_fit_the_screen_and_ask_nobody_else(self, browser: Any, address: str, name: str, width: int) -> None:
        page = browser.new_page(viewport={"width": width, "height": 800})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address, "data:")) or problems.append(request.url))
        page.goto(f"{address}/{name}.html", wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.get_by_role("heading", level=1).is_visible()
        assert problems == []
        page.close()
