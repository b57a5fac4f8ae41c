"""Whole studies, in worker processes: failures, deaths, interruptions, and what a second run does."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.errors import RunError
from modelmoat.core.locks import locked
from modelmoat.core.records import PARQUET_FILE, RECORDS_FILE, read_records
from modelmoat.studies import LocalEngine
from modelmoat.studies.engine import Progress
from modelmoat.studies.folder import DONE_FILE, STUDY_FILE
from modelmoat.studies.units import RECORDS_STAGE, Unit

SMOKE = Path(__file__).parents[2] / "studies" / "smoke.yaml"
FAILING = (
    "  - none\n",
    "  - none\n  - name: hopeless\n    defense: label_only+reverse_sigmoid\n    calibrate: {max_l1: 0.0001, images: 50}\n",
)
LONE = ("  - {defense: reverse_sigmoid, calibrate: {max_l1: 0.5, images: 50}}\n", "")


Bench = Callable[..., Any]
Rows = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def smoke(_kept: Path, bench: Bench) -> Path:
    """The folder of the project's smallest study after one run; never change it."""
    out = _kept / "smoke"
    if not out.exists():
        result = bench(SMOKE, out).result
        assert (result.records, result.ran, result.failed, result.blocked) == (12, 7, 0, 0)
        assert [judgment.verdict for judgment in result.judgments] == ["reproduced", "reproduced"]
    return out


def test_the_smoke_study_runs(smoke: Path, rows: Rows) -> None:
    found = rows(smoke)
    assert {(row["study"], row["victim_name"], row["victim_seed"]) for row in found} == {("smoke", "plain", 0)}
    assert {row["defense_name"] for row in found} == {"none", "label_only", "reverse sigmoid at L1 0.5"}
    calibrated = [row for row in found if row["defense_name"].startswith("reverse")]
    assert all(0.4 < row["mean_l1"] <= 0.55 for row in calibrated)
    page = (smoke / "study.html").read_text()
    assert "Claims on trial" in page
    assert page.count("reproduced</span>") == 2
    assert not (smoke / "failures.jsonl").exists()


def test_a_finished_study_runs_nothing_again(smoke: Path, bench: Bench, rows: Rows) -> None:
    before = rows(smoke)
    again = bench(SMOKE, smoke)
    assert (again.result.records, again.result.ran) == (12, 0)
    assert again.counts == [(7, 7)]
    assert rows(smoke) == before


def test_a_rerun_relabels_no_record_that_is_there(
    smoke: Path, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(smoke, out)
    before = json.loads((out / STUDY_FILE).read_text())
    monkeypatch.setattr("modelmoat.studies.folder.machine", lambda: {"system": "Other"})
    monkeypatch.setattr("modelmoat.studies.folder.now", lambda: "later")
    bench(SMOKE, out)
    assert json.loads((out / STUDY_FILE).read_text()) == before
    (first,) = before["runs"]
    assert first == {
        "time": before["updated"],
        "command": ["modelmoat", "bench"],
        **{name: before[name] for name in ("package_version", "versions", "machine")},
    }
    old = {name: value for name, value in before.items() if name != "runs"}  # as earlier versions wrote it
    (out / STUDY_FILE).write_text(json.dumps(old))
    (folder,) = out.glob("runs/plain-0/none-seed1-*")
    shutil.rmtree(folder)
    bench(SMOKE, out)
    after = json.loads((out / STUDY_FILE).read_text())
    del first["command"]  # not known of old pages
    assert after["runs"] == [first, after["runs"][1]]
    assert (after["runs"][1]["time"], after["runs"][1]["machine"], after["updated"]) == (
        "later",
        {"system": "Other"},
        "later",
    )
    assert f"{first['machine']['system']} / Other" in (out / "study.html").read_text()


def test_studies_share_victims(write: Callable[..., Path], tmp_path: Path, bench: Bench, rows: Rows) -> None:
    shelf, first, second, third = (tmp_path / name for name in ("shelf", "first", "second", "third"))
    assert bench(write(LONE), first, shelf=shelf).result.ran == 3
    other = bench(write(LONE, ("study: tiny", "study: other")), second, shelf=shelf)
    assert other.result.ran == 2
    assert not any(name.startswith("train") for name in other.outcomes)
    assert [row | {"study": "tiny"} for row in rows(second)] == rows(first)
    longer = ("fit: {epochs: 1, batch", "fit: {epochs: 2, batch")
    assert bench(write(LONE, longer), third, shelf=shelf).result.ran == 3
    assert len(list(shelf.iterdir())) == 2


def test_a_folder_is_one_study_s_and_one_process_s(smoke: Path, write: Callable[..., Path], bench: Bench) -> None:
    with pytest.raises(RunError, match="holds the study 'smoke', not 'tiny'"):
        bench(write(), smoke)
    with pytest.raises(
        RunError, match=r"plain-0 was trained with other settings; fix: give the victim 'plain' another"
    ):
        bench(write(("study: tiny", "study: smoke")), smoke)
    with locked(smoke), pytest.raises(RunError, match="in use by another modelmoat process"):
        bench(SMOKE, smoke)


def test_a_record_that_was_cut_short_is_made_again(smoke: Path, tmp_path: Path, bench: Bench, rows: Rows) -> None:
    out = tmp_path / "copy"
    shutil.copytree(smoke, out)
    (folder,) = out.glob("runs/plain-0/none-seed1-*")
    file = folder / RECORDS_FILE
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="the last line was cut short"):
        again = bench(SMOKE, out)
    assert list(again.outcomes) == ["plain-0 behind none, seed 1"]
    assert again.result.records == 12
    assert rows(out) == rows(smoke)


def test_a_study_that_still_runs_can_be_asked_and_stays_as_it_is(smoke: Path, tmp_path: Path, rows: Rows) -> None:
    out = tmp_path / "copy"
    shutil.copytree(smoke, out)
    (out / PARQUET_FILE).unlink()
    with pytest.warns(UserWarning, match="copy has no table yet; records so far: 12, of 6 of 6 runs"):
        assert rows(out) == rows(smoke)
    (done,) = out.glob("runs/plain-0/none-seed0-*")
    shutil.rmtree(done)
    (running,) = out.glob("runs/plain-0/none-seed1-*")
    (running / DONE_FILE).unlink()
    file = running / RECORDS_FILE
    file.write_bytes(file.read_bytes()[:-40])  # a line that is being written
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.warns(UserWarning, match="copy has no table yet; records so far: 9, of 5 of 6 runs") as warned:
        assert len(rows(out)) == 9
    assert len(warned) == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_failure_stops_nothing_else(write: Callable[..., Path], tmp_path: Path, bench: Bench) -> None:
    out = tmp_path / "out"
    failing = bench(write(FAILING, ("seeds: [0, 1]", "seeds: [0]")), out)
    result = failing.result
    assert (result.records, result.ran, result.failed, result.blocked) == (4, 3, 1, 0)
    (failure,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert failure["unit"] == "plain-0 behind hopeless, seed 0"
    assert failure["error"] == failing.outcomes["plain-0 behind hopeless, seed 0"].error
    assert "no setting keeps mean L1" in failure["error"]
    assert "1 unit failed" in (out / "study.html").read_text()
    assert result.judgments[0].verdict == "undecided"  # one seed


def test_without_its_victim_nothing_else_starts(write: Callable[..., Path], tmp_path: Path, bench: Bench) -> None:
    out = tmp_path / "out"
    (out / "victims" / "plain-0").mkdir(parents=True)
    (out / "victims" / "plain-0" / "model.json").write_text("{}")
    started = bench(write(), out)
    result = started.result
    assert (result.records, result.ran, result.failed, result.blocked) == (0, 0, 1, 4)
    assert list(started.outcomes) == ["train plain, seed 0"]
    assert result.judgments[0].verdict == "not tested"


def test_a_killed_worker_loses_nothing(write: Callable[..., Path], tmp_path: Path, bench: Bench) -> None:
    killed: list[list[str]] = []
    out = tmp_path / "out"

    def kill_once(unit: Unit, progress: Progress) -> None:
        if not killed and progress == Progress(RECORDS_STAGE, 1, 2):
            killed.append([record.cell for record in read_records(out / unit.folder)])
            for process in multiprocessing.active_children():
                process.kill()

    study = write(("seeds: [0, 1]", "seeds: [0]"), LONE)
    result = bench(study, out, engine=LocalEngine(1), on_progress=kill_once).result
    assert (result.records, result.ran, result.failed, result.blocked) == (2, 2, 0, 0)
    assert len(killed) == 1
    (folder,) = (out / "runs" / "plain-0").iterdir()
    cells = [record.cell for record in read_records(folder)]
    assert len(cells) == 2
    assert cells[: len(killed[0])] == killed[0]


@pytest.mark.slow
def test_two_workers_make_the_same_records(smoke: Path, tmp_path: Path, bench: Bench, rows: Rows) -> None:
    result = bench(SMOKE, tmp_path / "out", engine=LocalEngine(2)).result
    assert (result.records, result.ran, result.failed) == (12, 7, 0)
    assert rows(tmp_path / "out") == rows(smoke)
