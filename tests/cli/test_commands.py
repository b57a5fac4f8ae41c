"""What commands print, where they print it, and how they end."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from modelmoat import __version__
from modelmoat.assessment.suites import SUITES
from modelmoat.attacks import ATTACKS, RECOVERIES
from modelmoat.core.errors import ModelmoatError
from modelmoat.core.records import Record, read_records
from modelmoat.core.runs import read_run
from modelmoat.data import known_sources
from modelmoat.defenses import DEFENSES
from modelmoat.models import arch_names, load_card
from modelmoat.recipes import RECIPES
from modelmoat.training import FitSettings

Command = Callable[..., object]
NAMES = {
    "attacks": ATTACKS.names,
    "recoveries": RECOVERIES.names,
    "suites": lambda: list(SUITES),
    "defenses": DEFENSES.names,
    "recipes": RECIPES.names,
    "archs": arch_names,
    "data": lambda: [source.name for source in known_sources()],
}


def test_assess_prints_the_verdict_and_the_path_of_the_report(assess: Callable, tmp_path: Path) -> None:
    done = assess("--defense", "none", "--defense", "rounding:decimals=1", "--seed", "0,1")
    report = tmp_path / "run" / "report.html"
    assert (done.code, done.err) == (0, "")
    assert done.out.rstrip().endswith(f"Report: {report}")
    assert "<html" in report.read_text()
    records = read_records(tmp_path / "run")
    found = [(r.defense, r.seed, r.budget) for r in records]
    defenses = ("none", "label_only", "rounding:decimals=1")  # ceiling and floor come along
    assert found == [(d, s, b) for d in defenses for s in (0, 1) for b in (10, 25)]
    assert "rounding:decimals=1: gap to floor" in done.out


def test_ceiling_and_floor_can_be_left_out(assess: Callable, tmp_path: Path) -> None:
    assert assess("--defense", "rounding:decimals=1", "--no-bracket", "--budget", "10").code == 0
    assert [record.defense for record in read_records(tmp_path / "run")] == ["rounding:decimals=1"]


def test_a_limit_judges_what_was_asked_for(assess: Callable, tmp_path: Path) -> None:
    done = assess("--defense", "rounding:decimals=1", "--budget", "10", "--fail-above", "fidelity=1.0")
    assert done.code == 0
    assert "against rounding:decimals=1" in done.err
    assert {record.defense for record in read_records(tmp_path / "run")} == {
        "none",
        "label_only",
        "rounding:decimals=1",
    }


def test_json_is_all_that_json_prints(assess: Callable, tmp_path: Path) -> None:
    done = assess("--json", "--attack", "knockoff:targets=label", "--no-bracket")
    lines = done.out.splitlines()
    assert done.code == 0
    assert [Record.model_validate_json(line) for line in lines] == read_records(tmp_path / "run")
    assert [json.loads(line)["attack"] for line in lines] == ["knockoff:targets=label"] * 2
    assert "Report: " in done.err


def test_options_reach_the_records(assess: Callable, tmp_path: Path) -> None:
    done = assess(
        *("--output", "top3", "--clone-arch", "resnet8", "--batch-size", 5, "--seed", "4", "--budget", "20"),
        *("--price", 7, "--target", 0.9, "--device", "cpu", "--keep-clones", "--no-bracket"),
    )
    assert done.code == 0
    (record,) = read_records(tmp_path / "run")
    assert (record.output_kind, record.clone_arch, record.seed, record.budget) == ("top-k", "resnet8", 4, 20)
    assert record.clone_steps == 8  # two epochs of four steps reach the five that are asked for
    info = read_run(tmp_path / "run")
    assert info is not None
    assert (info.price_per_1000, info.target_fidelity) == (7, 0.9)
    assert load_card(tmp_path / "run" / "clones" / record.cell).arch == "resnet8"


def test_fail_above_judges_the_worst_mean_over_seeds(assess: Callable, tmp_path: Path) -> None:
    assert assess("--seed", "0,1").code == 0
    records = [record for record in read_records(tmp_path / "run") if record.defense == "none"]
    for metric in ("fidelity", "relative_accuracy"):
        worst = max(sum(getattr(r, metric) for r in records if r.budget == budget) / 2 for budget in (10, 25))
        assert max(getattr(r, metric) for r in records) > worst + 1e-6, "seeds have to differ to tell mean from maximum"
        failed = assess("--seed", "0,1", "--fail-above", f"{metric}={worst - 1e-6}")
        assert failed.code == 3
        assert f"FAIL: {metric} {worst:.3f} by knockoff against none" in failed.err
        passed = assess("--seed", "0,1", "--fail-above", f"{metric}={worst + 1e-6}")
        assert passed.code == 0
        assert f"PASS: the worst case is {metric} {worst:.3f}" in passed.err


def test_a_baseline_that_asks_nothing_breaks_no_limit(
    assess: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert assess().code == 0
    made = [r.model_copy(update={"fidelity": 0.5}) for r in read_records(tmp_path / "run")]
    made += [r.model_copy(update={"fidelity": 0.9, "sent": 0, "attack": "no_victim"}) for r in made]
    monkeypatch.setattr("modelmoat.cli.assess.run_and_report", lambda *_, **__: made)
    assert assess("--fail-above", "fidelity=0.6").code == 0
    assert "0.500 by knockoff" in assess("--fail-above", "fidelity=0.4").err


def test_clones_can_start_from_given_weights(assess: Callable, tiny_victim: Path, tmp_path: Path) -> None:
    done = assess("--clone-init", tiny_victim, "--attack", "no_victim:labels=none", "--budget", "10", "--no-bracket")
    assert done.code == 0
    (record,) = read_records(tmp_path / "run")
    assert (record.clone_init, record.fidelity, record.sent) == (str(tiny_victim), 1.0, 0)


def test_one_lucky_seed_is_not_the_worst_case(
    assess: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert assess("--seed", "0,1").code == 0
    shares = {(10, 0): 0.9, (10, 1): 0.1, (25, 0): 0.6, (25, 1): 0.6}
    made = [r.model_copy(update={"fidelity": shares[r.budget, r.seed]}) for r in read_records(tmp_path / "run")]
    monkeypatch.setattr("modelmoat.cli.assess.run_and_report", lambda *_, **__: made)
    done = assess("--seed", "0,1", "--fail-above", "fidelity=0.55")
    assert done.code == 3
    assert "FAIL: fidelity 0.600 by knockoff against none with 25 queries; the limit is 0.55" in done.err


def test_a_verdict_keeps_json_clean(assess: Callable) -> None:
    done = assess("--json", "--fail-above", "fidelity=0")
    assert done.code == 3
    assert all(json.loads(line) for line in done.out.splitlines())


def test_an_interruption_says_how_to_go_on(assess: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("modelmoat.assessment.run.evaluate_theft", interrupted)
        done = assess()
    assert done.code == 130
    assert done.out == ""
    assert done.err == "Interrupted. Nothing that was finished is lost: run the same command again to go on.\n"
    assert assess().code == 0
    assert len(read_records(tmp_path / "run")) == 4  # two budgets, ceiling and floor


def test_an_error_that_is_not_misuse_ends_with_1(assess: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelmoatError("the loss is [bold]nan[/bold] [/x] at line " + "1" * 200)

    monkeypatch.setattr("modelmoat.assessment.run.evaluate_theft", fails)
    done = assess()
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: the loss is [bold]nan[/bold] [/x] at line " + "1" * 200 + "\n"


def test_warnings_are_one_line_each_whatever_is_in_them(
    assess: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "[bold]a[/b]"
    assert assess("--out", out).code == 0
    with (out / "records.jsonl").open("a") as file:
        file.write('{"cut": ')
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = assess("--out", out)
    assert done.code == 0
    assert done.err.startswith(f"Warning: {out / 'records.jsonl'}: the last line was cut short")
    assert done.err.count("\n") == 1


def test_report_writes_the_page_again(assess: Callable, modelmoat: Callable, tmp_path: Path) -> None:
    assert assess().code == 0
    page = tmp_path / "run" / "report.html"
    first = page.read_text()
    page.write_text("old")
    done = modelmoat("report", tmp_path / "run")
    assert (done.code, done.out.strip(), done.err) == (0, str(page), "")
    assert page.read_text() == first


@pytest.mark.parametrize("family", NAMES)
def test_list_names_everything_that_is_registered(family: str, modelmoat: Callable) -> None:
    names = NAMES[family]()
    rows = json.loads(modelmoat("list", family, "--json").out)
    assert [row["name"] for row in rows] == names
    assert all(row["summary"] for row in rows)
    plain = modelmoat("list", family)
    assert (plain.code, plain.err) == (0, "")
    assert all(name in plain.out.split() for name in names)


def test_list_without_a_family_is_all_of_them(modelmoat: Callable) -> None:
    found = json.loads(modelmoat("list", "--json").out)
    assert {family: [row["name"] for row in rows] for family, rows in found.items()} == {
        family: names() for family, names in NAMES.items()
    }
    plain = modelmoat("list").out.split()
    assert all(name in plain for names in NAMES.values() for name in names())


def test_list_gives_parameters_with_their_defaults_and_nothing_else(modelmoat: Callable) -> None:
    rows = {row["name"]: row for row in json.loads(modelmoat("list", "attacks", "--json").out)}
    assert rows["knockoff"]["parameters"] == {"targets": "soft"}
    jbda = {"targets": "soft", "seeds": 150, "round_epochs": 10, "step": 0.1, "rule": "papernot"}
    assert rows["jbda"]["parameters"].items() >= jbda.items()
    assert rows["jbda"]["outputs"] == ["label", "probabilities", "probabilities+explanation", "top-k"]
    for name, row in rows.items():
        assert set(row["parameters"]) == set(ATTACKS.get(name)().parameters())


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", ["assess", "train", "report", "list", "quickstart"])
def test_help_shows_an_example_that_runs_the_command(command: str, flag: str, modelmoat: Callable) -> None:
    done = modelmoat(command, flag)
    assert (done.code, done.err) == (0, "")
    assert "Example" in done.out
    assert f"modelmoat {command}" in done.out


def test_version_and_help(modelmoat: Callable) -> None:
    assert modelmoat("--version").out == f"modelmoat {__version__}\n"
    everything = modelmoat("--help").out
    assert all(command in everything for command in ("assess", "train", "report", "list", "quickstart"))


def test_train_writes_a_victim_and_does_not_train_it_twice(modelmoat: Callable, tmp_path: Path) -> None:
    out = tmp_path / "victim"
    options = ("--data", "digits,subset=64", "--arch", "small_cnn", "--epochs", 1, "--lr", 0.01)
    first = modelmoat("train", "standard", *options, "--out", out)
    assert (first.code, first.err) == (0, "")
    assert f"Next: modelmoat assess {out}" in first.out
    weights = (out / "model.safetensors").read_bytes()
    assert "test accuracy" in modelmoat("train", "standard", *options, "--out", out).out
    assert (out / "model.safetensors").read_bytes() == weights
    other = modelmoat("train", "standard", *options, "--seed", 1, "--out", out)
    assert other.code == 2
    assert "holds another victim" in other.err


def test_quickstart_tells_the_whole_story(modelmoat: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = FitSettings(epochs=1, min_steps=5, lr=0.05, precision="float32")
    monkeypatch.setattr("modelmoat.training.FitSettings", lambda **_: quick)
    monkeypatch.setattr("modelmoat.cli.quickstart.SEEDS", (0,))
    monkeypatch.setattr("modelmoat.cli.quickstart.BUDGETS", (10,))
    done = modelmoat("quickstart", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert done.out.rstrip().endswith(f"Report: {tmp_path / 'run' / 'report.html'}")
    records = read_records(tmp_path / "run")
    assert len({record.defense for record in records}) >= 4
    assert len({record.attack for record in records}) >= 2
    assert load_card(tmp_path / "run" / "victim").weights_digest == records[0].victim_digest
    assert modelmoat("quickstart", "--out", tmp_path / "run").code == 0
    assert read_records(tmp_path / "run") == records
