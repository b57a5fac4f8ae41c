from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from rich.progress import Progress as RichProgress

from modelmoat.cli.bench import _Shown
from modelmoat.cli.progress import Bars
from modelmoat.core.records import append_record
from modelmoat.studies import Study
from modelmoat.studies.engine import Outcome, Progress
from modelmoat.studies.units import Unit, plan_units
from records import make_record

pytestmark = pytest.mark.filterwarnings("default:take care")

STUDY = """\
study: tiny
victims:
  plain: {data: "digits,pool=0.4", arch: small_cnn, recipe: standard, seeds: [0]}
defenses: [none, label_only]
attacks: [knockoff]
pool: digits,pool=0.4,split=pool
budgets: [10, 20]
claims:
  - {text: A clone is worth something., source: nobody, published: 0.5, measure: SELECT fidelity FROM records, expect: "> 0.2"}
"""


class Pretended:
    """In the place of the engine: the first defense gets a record, the second fails."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def check(self, study: Study) -> None:
        pass

    def run(self, root: Path, command: list[str], watch: Any, units: Sequence[Unit], done: set[Path]) -> set[Path]:
        done = set(done)
        for unit in units:
            watch.progress(0, unit, Progress("records", 0, 1))
            outcome = Outcome(error="boom") if "label_only" in str(unit) else Outcome(warnings=("take care",))
            if "none" in str(unit):
                (root / unit.folder).mkdir(parents=True)
                append_record(root / unit.folder, make_record(cell="a", attack="knockoff", fidelity=0.75))
                append_record(root / unit.folder, make_record(cell="b", attack="copycat, plain", fidelity=0.5))
                outcome = Outcome(cells=("a", "b"))
            watch.ended(0, unit, outcome)
            done |= set() if outcome.error else {unit.folder}
        return done


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def benched(
    modelmoat: Callable[..., Any], study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Any]:
    """The folder of a study of which one unit failed, and how the command ended."""
    monkeypatch.setattr("modelmoat.studies.LocalEngine", Pretended)
    return tmp_path / "out", modelmoat("bench", study, "--out", tmp_path / "out")


def test_a_dry_run_tells_what_it_takes_and_writes_nothing(
    modelmoat: Callable[..., Any], study: Path, tmp_path: Path
) -> None:
    done = modelmoat("bench", study, "--out", tmp_path / "out", "--dry-run", "--workers", 2)
    assert done.code == 0
    assert "1 victim to train, 2 runs, 4 records, at most 40 queries" in done.out
    assert " s with 2 workers" in done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", [f"cuda:{torch.cuda.device_count()}", "cuda:99"])
def test_a_dry_run_does_not_guess_the_pace_of_a_device_that_is_not_here(
    modelmoat: Callable[..., Any], study: Path, tmp_path: Path, device: str
) -> None:
    study.write_text(study.read_text() + f"device: {device}\n")
    done = modelmoat("bench", study, "--out", tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert "1 victim to train, 2 runs, 4 records, at most 40 queries" in done.out
    assert f"not known here: the study's device is {device}, which this machine lacks" in done.out
    assert "at least" not in done.out


def test_a_failed_unit_is_told_and_makes_the_exit_code(benched: tuple[Path, Any]) -> None:
    out, done = benched
    assert done.code == 1
    assert "failed: plain-0 behind label_only, seed 0: boom" in done.err
    assert f"1 unit failed; see {out / 'failures.jsonl'}" in done.err
    assert done.err.count("Warning: take care") == 1
    assert "undecided: A clone is worth something." in done.out
    assert f"Page: {out / 'study.html'}" in done.out


def test_a_plain_log_gets_a_line_for_each_unit_that_ends(benched: tuple[Path, Any]) -> None:
    lines = [line for line in benched[1].err.splitlines() if " of " in line]
    assert [line.rpartition(", ")[0] for line in lines] == [
        "1 of 3: train plain, seed 0",
        "2 of 3: plain-0 behind none, seed 0",
    ]
    assert all(line.endswith(" s") for line in lines)


def test_a_terminal_gets_bars_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = StringIO()
    with RichProgress(console=Console(file=drawn, force_terminal=True), auto_refresh=False) as progress:
        shown, unit = _Shown(Bars(progress)), plan_units(Study.model_validate(yaml.safe_load(STUDY)))[0][0]
        shown.units(0, 1)
        shown.progress(0, unit, Progress("training", 1, 2))
        shown.ended(0, unit, Outcome())
    assert "units" in drawn.getvalue()
    assert capsys.readouterr().err == ""


def test_a_query_prints_a_table_or_values(modelmoat: Callable[..., Any], benched: tuple[Path, Any]) -> None:
    out, _ = benched
    sql = "SELECT victim_name, attack, fidelity, clone_init FROM records ORDER BY cell"
    assert modelmoat("query", out, sql).out.splitlines() == [
        "victim_name  attack          fidelity  clone_init",
        "-----------  --------------  --------  ----------",
        "plain        knockoff            0.75",
        "plain        copycat, plain       0.5",
    ]
    assert modelmoat("query", out, out, sql, "--csv").out.splitlines() == [
        "victim_name,attack,fidelity,clone_init",
        "plain,knockoff,0.75,",
        'plain,"copycat, plain",0.5,',
    ]
    rows = [json.loads(line) for line in modelmoat("query", out, sql, "--json").out.splitlines()]
    assert rows[0] == {"victim_name": "plain", "attack": "knockoff", "fidelity": 0.75, "clone_init": None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "{study}", "--out", "{out}", "--workers", "0"), "--workers 0: expected at least 1"),
        (
            ("bench", "{study}", "--out", "{out}", "--address", "auto"),
            "--address auto: the engine 'local' has none; fix",
        ),
        (("bench", "{study}", "--out", "{out}", "--gpu-share", "0.5"), "--gpu-share 0.5: the engine 'local' has none"),
        (("bench", "{study}", "--out", "{out}", "--engine", "ray", "--gpu-share", "0"), "--gpu-share 0.0: expected"),
        (
            ("bench", "{study}", "--out", "{out}", "--engine", "ray", "--address", "ray://a:1"),
            "--address ray://a:1: Ray",
        ),
        (("bench", "{study}", "--out", "s3://b/x"), "--out s3://b/x: the engine 'local' writes to folders; fix"),
        (("bench", "{study}", "--out", "memory://x", "--engine", "ray"), "--out memory://x: only one process sees it"),
        (
            ("bench", "{study}", "--out", "no://x", "--engine", "ray"),
            "--out no://x: Protocol not known: no; fix: a folder",
        ),
        (("bench", "{out}/none.yaml", "--out", "{out}"), "No such file or directory; fix: name a YAML file"),
        (("query", "{out}", "SELECT 1"), "has no records.parquet; fix: name a folder"),
        (("query", "{out}", "SELECT 1", "--csv", "--json"), "--csv and --json: expected one of them"),
    ],
)
def test_misuse(
    modelmoat: Callable[..., Any], study: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = modelmoat(*(argument.format(study=study, out=tmp_path) for argument in arguments))
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT fidelty FROM records", "Binder Error"),
        ("", "nothing given"),
        ("SELECT 1; SELECT 2", "SELECT and SELECT"),
    ],
)
def test_a_mistake_in_a_query_is_one_line(
    modelmoat: Callable[..., Any], benched: tuple[Path, Any], sql: str, words: str
) -> None:
    done = modelmoat("query", benched[0], sql)
    assert done.code == 2
    assert done.err.startswith(f"Error: SQL: {words}")
    assert done.err.count("\n") == 1
