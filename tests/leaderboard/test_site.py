from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modelmoat.attacks import ATTACKS
from modelmoat.cli.app import app
from modelmoat.core.records import write_parquet
from modelmoat.defenses import DEFENSES
from modelmoat.leaderboard import write_leaderboard
from web import Page

BOARDS = (("digits", "1,000"), ("digits", "5,000"), ("a/<b>&c", "1,000"))
"""The rankings in order: one of three defenses comes after those of four."""


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_link_leads_to_a_page_of_the_site(parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        for tag, link in page.loads:
            if tag == "link":
                assert link == "data:,"
                continue
            file, _, place = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target in parsed, f"{path.name}: {link}"
            assert not place or place in parsed[target].ids


def test_nothing_is_loaded_and_only_our_script_runs(site: Path, parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        text = path.read_text(encoding="utf-8")
        assert {"img", "iframe", "object", "embed", "source"}.isdisjoint(page.tags)
        assert not re.search(r"@import|url\((?!#)|https?://|//cdn", text)
        scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        assert len(scripts) == (path.name == "index.html")
        for script in scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}';" in text
        assert "default-src 'none'" in text


def test_every_method_has_a_page_that_says_what_it_is(site: Path, parsed: dict[Path, Page]) -> None:
    for family, registry in (("defense", DEFENSES), ("attack", ATTACKS)):
        for cls in registry:
            text = " ".join(parsed[(site / family / f"{cls.name}.html").resolve()].text.split())
            assert cls.summary().replace("`", "") in text
            assert cls.paper in text or cls.paper == "-"


def test_index_has_the_numbers_in_order(site: Path, parsed: dict[Path, Page]) -> None:
    text = " ".join(parsed[(site / "index.html").resolve()].text.split())
    heads = [text.index(f"{data} · small_cnn, standard · {budget} queries") for data, budget in BOARDS]
    assert heads == sorted(heads)
    ranked = text[heads[0] : heads[1]]
    order = ["mad:epsilon=0.1235", "label_only", "dcp:beta=0.5", "rounding:decimals=1", "none", "random_noise+top_k"]
    places = [ranked.index(name) for name in order]
    assert places == sorted(places)
    assert "72.5% ± 6.4knockoff:targets=label −6.0 ± 0.0 0.4 0.25 1.5×" in ranked
    assert "over the limit: costs 20.0 points of accuracy" in ranked
    assert "Ranked: 3 defenses that cost users at most 1 point of accuracy. After them: 1 over that limit." in ranked
    assert "69 records in 3 rankings" in text


def test_a_chain_is_on_the_pages_of_all_its_steps(parsed: dict[Path, Page], site: Path) -> None:
    for name in ("random_noise", "top_k"):
        assert "1 of 4, any loss" in parsed[(site / "defense" / f"{name}.html").resolve()].text


def test_a_page_without_numbers_says_so(parsed: dict[Path, Page], site: Path) -> None:
    assert "None of the records" in parsed[(site / "attack" / "dfme.html").resolve()].text


def test_hostile_names_are_text_and_stay_inside(site: Path) -> None:
    assert {path.parent.name for path in site.rglob("*.html")} == {"site", "defense", "attack"}
    assert len(list(site.rglob("other-*.html"))) == 2
    for path in site.rglob("*.html"):
        assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_same_records_give_the_same_bytes(make: Any, tmp_path: Path) -> None:
    records = [make(defense=name, attack=attack) for name in ("none", "mad", "dcp") for attack in ("knockoff", "jbda")]
    texts = []
    for number, order in enumerate((records, records[::-1])):
        (tmp_path / f"{number}").mkdir()
        write_parquet(tmp_path / f"{number}", order)
        index = write_leaderboard([tmp_path / f"{number}"], tmp_path / f"site{number}")
        texts.append({path.name: path.read_bytes() for path in index.parent.rglob("*.html")})
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("options", "folder"), [([], "leaderboard"), (["--out", "other"], "other")])
def test_command_writes_the_site(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], folder: str
) -> None:
    """By default not where the documentation is built, whose first page has the same name."""
    write_parquet(tmp_path, [make(), make(defense="mad", clone_accuracy=0.5)])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["leaderboard", str(tmp_path), *options])
    assert result.exit_code == 0
    assert result.output.strip() == f"{folder}/index.html"
    assert Path(folder, "index.html").is_file()
