from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from modelmoat.assessment import assess
from modelmoat.assessment.folder import RunFolder
from modelmoat.attacks import Theft, Thief, create_attack
from modelmoat.attacks.knockoff import Knockoff
from modelmoat.core.errors import ModelmoatError, OptionError, RunError
from modelmoat.core.records import RECORDS_FILE, Record, read_records
from modelmoat.core.runs import RUN_FILE, read_run
from modelmoat.defenses import create_defense, parse_defense
from modelmoat.training import FitSettings, TrainingDiverged
from modelmoat.victims import OutputFormat
from modelmoat.victims.journal import read_journal

Run = Callable[..., list[Record]]
GRID: dict[str, Any] = {
    "defenses": (create_defense("none"), create_defense("random_noise", repeats="fresh")),
    "attacks": (create_attack("knockoff"), create_attack("jbda", seeds=6, round_epochs=1)),
}


def journaled(folder: Path) -> dict[str, int]:
    """Answers on disk by journal."""
    files = sorted((folder / "journals").iterdir())
    return {file.name: sum(len(frame.rows) for frame in read_journal(file)[1]) for file in files}


@pytest.mark.parametrize(("records", "replayed"), [(1, 0), (5, 10)])
def test_a_run_that_failed_between_records_ends_like_one_that_did_not(
    records: int, replayed: int, run: Run, stop_after: Callable, lasting: Callable, asked: list[Tensor], tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", **GRID)
    paid = len(asked)
    assert paid == 4 * 25
    with pytest.raises(RuntimeError, match="stopped"):
        run(observer=stop_after(records=records), **GRID)
    assert len(read_records(tmp_path / "run")) == records
    resumed = run(**GRID)
    assert list(map(lasting, resumed)) == list(map(lasting, whole))
    assert sorted(r.cell for r in read_records(tmp_path / "run")) == sorted(r.cell for r in whole)
    assert len(asked) == 2 * paid + replayed  # a stateful defense has to see again what it answered; nobody pays for it
    assert journaled(tmp_path / "run") == journaled(tmp_path / "whole")


@pytest.mark.parametrize("kind", [TrainingDiverged, OptionError])
def test_an_attacker_that_cannot_go_on_stops_no_other(
    kind: type[ModelmoatError], run: Run, lasting: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", **GRID)
    steal = Knockoff.run

    def diverging(self: Knockoff, thief: Thief, budgets: list[int]) -> Iterator[Theft]:
        yield next(steal(self, thief, budgets))
        raise kind("the mean loss is nan")

    with monkeypatch.context() as patch:
        patch.setattr(Knockoff, "run", diverging)
        with pytest.raises(kind, match=r"knockoff against none, seed 0: the mean loss is nan \(and 1 more\)"):
            run(**GRID)
    kept = [lasting(record) for record in read_records(tmp_path / "run")]
    expected = [lasting(record) for record in whole if (record.attack, record.budget) != ("knockoff", 25)]
    assert kept == expected
    assert list(map(lasting, run(**GRID))) == list(map(lasting, whole))


def test_a_full_disk_stops_all(run: Run, monkeypatch: pytest.MonkeyPatch, asked: list[Tensor]) -> None:
    def full(*_: object) -> None:
        raise RunError("no space left")

    monkeypatch.setattr(RunFolder, "add", full)
    with pytest.raises(RunError, match=r"no space left$"):
        run(**GRID)
    assert len(asked) == 10  # for the first record; nothing else was begun


@pytest.mark.parametrize("stages", [1, 4, 16, 30])
def test_a_run_interrupted_inside_a_cell_ends_like_one_that_was_not(
    stages: int, run: Run, stop_after: Callable, lasting: Callable, asked: list[Tensor], tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", attacks=GRID["attacks"])
    with pytest.raises(KeyboardInterrupt):
        run(observer=stop_after(stages=stages), attacks=GRID["attacks"])
    resumed = run(attacks=GRID["attacks"])
    assert list(map(lasting, resumed)) == list(map(lasting, whole))
    assert len(asked) == 2 * 50
    assert set(journaled(tmp_path / "run").values()) == {25}


def test_a_finished_run_asks_nothing_and_measures_nothing_again(run: Run, asked: list[Tensor]) -> None:
    first = run()
    asked.clear()
    assert run() == first
    assert asked == []


def test_a_larger_grid_keeps_the_cells_it_has(run: Run, asked: list[Tensor], lasting: Callable, tmp_path: Path) -> None:
    small = run(budgets=(25,))
    assert len(asked) == 25
    assert run(budgets=(10, 25))[1] == small[0]
    assert len(asked) == 25  # the ten were among the twenty-five
    run(budgets=(40,))
    assert len(asked) == 40
    grown: dict[str, Any] = {
        "budgets": (10, 25, 40),
        "seeds": (0, 1),
        "defenses": (create_defense("none"), create_defense("label_only")),
    }
    records = run(**grown)
    assert len(asked) == 4 * 40
    assert records[1] == small[0]
    assert len(read_records(tmp_path / "run")) == len(records) == 12
    fresh = run(tmp_path / "fresh", **grown)
    assert list(map(lasting, records)) == list(map(lasting, fresh))


def test_a_smaller_grid_returns_its_own_cells(run: Run, tmp_path: Path) -> None:
    every = run(seeds=(0, 1))
    assert run(seeds=(1,), budgets=(10,)) == [every[2]]
    assert len(read_records(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pool": "photo-patches,grey,size=8,n=60"},
            r"pool was 'digits,pool=0.4,split=pool' and is now 'photo-patches",
        ),
        ({"output": OutputFormat("label")}, "output was 'probabilities' and is now 'label'"),
        ({"clone_arch": "resnet8"}, "clone_arch was None and is now 'resnet8'"),
        ({"clone_fit": FitSettings(epochs=2, min_steps=5, lr=0.05, precision="float32")}, r"epochs was 1 and is now 2"),
        (
            {"data": "digits,pool=0.4", "data_seed": 1, "drop_overlap": True},
            "data was None and is now 'digits,pool=0.4'",
        ),
    ],
)
def test_another_setting_is_refused_with_what_changed(changes: dict, words: str, run: Run, tmp_path: Path) -> None:
    run(budgets=(10,))
    before = (tmp_path / "run" / RUN_FILE).read_bytes()
    with pytest.raises(RunError, match=rf"holds a run with another setting: .*{words}.*fix: choose another --out"):
        run(budgets=(10,), **changes)
    assert (tmp_path / "run" / RUN_FILE).read_bytes() == before


def test_the_same_victim_by_another_name_is_the_same_victim(run: Run, tiny_victim: Path, asked: list[Tensor]) -> None:
    (record,) = run(budgets=(10,))
    assert run(budgets=(10,), victim=f"{tiny_victim}/", data="digits,pool=0.4") == [record]
    assert len(asked) == 10


def test_the_page_says_what_all_runs_of_a_folder_asked_for(run: Run, spec: Callable, tmp_path: Path) -> None:
    for command, budgets in ((["first"], (10, 25)), (["second"], (10,)), (["first"], (10, 25))):
        assess(spec(budgets=budgets, seeds=(len(budgets) - 1,)), tmp_path / "run", command=command)
    info = read_run(tmp_path / "run")
    assert info is not None
    assert info.commands == [["first"], ["second"]]
    assert (info.spec["budgets"], info.spec["seeds"]) == ([10, 25], [1, 0])
    assert info.created <= info.updated


def test_clones_can_be_kept_after_the_fact(run: Run, asked: list[Tensor], tmp_path: Path) -> None:
    records = run()
    assert run(keep_clones=True) == records == read_records(tmp_path / "run")
    assert len(asked) == 25
    assert all((tmp_path / "run" / "clones" / record.cell / "model.json").is_file() for record in records)


@pytest.mark.parametrize("defense", ["modelguard_s:epsilon=0.05", "random_noise:repeats=fresh"])
def test_a_stateful_defense_answers_the_same_stream_whatever_is_measured_on_the_way(
    defense: str, run: Run, tmp_path: Path
) -> None:
    defenses = (parse_defense(defense),)
    ways = {"at once": [(40,)], "on the way": [(10, 40)], "one by one": [(10,), (20,), (40,)]}
    journals = []
    for name, runs in ways.items():
        for budgets in runs:
            run(out=tmp_path / name, budgets=budgets, defenses=defenses)
        (path,) = (tmp_path / name / "journals").iterdir()
        journals.append(torch.cat([frame.rows for frame in read_journal(path)[1]]))
    torch.testing.assert_close(journals[0], journals[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(journals[0], journals[2], atol=1e-5, rtol=0)


def test_a_second_process_is_refused_and_the_first_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(RunError, match=r"in use by another .* process; fix"):
        run()
    assert [record.budget for record in run()] == [10, 25]


def test_the_lock_is_given_back_after_an_error(run: Run, stop_after: Callable) -> None:
    with pytest.raises(RuntimeError):
        run(observer=stop_after(records=1))
    assert len(run()) == 2


def test_a_record_cut_by_a_crash_is_measured_again(
    run: Run, asked: list[Tensor], lasting: Callable, tmp_path: Path
) -> None:
    first = run()
    file = tmp_path / "run" / RECORDS_FILE
    file.write_bytes(file.read_bytes()[:-40])
    asked.clear()
    with pytest.warns(UserWarning, match=r"records.jsonl: the last line was cut short"):
        again = run()
    assert list(map(lasting, again)) == list(map(lasting, first))
    assert again[0] == first[0]
    assert [record.cell for record in read_records(tmp_path / "run")] == [record.cell for record in first]
    assert asked == []


def test_answers_cut_by_a_crash_are_asked_again(
    run: Run, asked: list[Tensor], stop_after: Callable, lasting: Callable, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(observer=stop_after(stages=1))  # ten queries are answered
    (journal,) = (tmp_path / "run" / "journals").iterdir()
    journal.write_bytes(journal.read_bytes()[:-7])
    asked.clear()
    with pytest.warns(UserWarning, match="the last batch was cut short"):
        again = run()
    assert len(asked) == 25
    assert list(map(lasting, again)) == list(map(lasting, whole))


def test_a_journal_of_another_victim_is_refused(run: Run, tmp_path: Path, stop_after: Callable) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(observer=stop_after(stages=1))
    (journal,) = (tmp_path / "run" / "journals").iterdir()
    raw = journal.read_bytes()
    journal.write_bytes(raw.replace(b'"output": "probabilities"', b'"output": "label"'))
    with pytest.raises(RunError, match=r"holds answers of .*output label.*not of .*output probabilities"):
        run()


def test_rows_that_no_version_wrote_are_refused_with_their_line(run: Run, tmp_path: Path) -> None:
    run()
    with (tmp_path / "run" / RECORDS_FILE).open("a") as file:
        file.write('{"cell": "x"}\n')
    with pytest.raises(RunError, match=r"records.jsonl, line 3: .*fix"):
        run()
