from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.errors import RunError
from modelmoat.core.records import append_record, write_parquet
from modelmoat.leaderboard import Entry, arenas, rank, read_rows
from modelmoat.studies.table import write_table

Rows = Callable[[list[Any]], list[Entry]]


@pytest.mark.parametrize(
    "change",
    [
        {"data": "other"},
        {"output_kind": "top-k"},
        {"budget": 2000},
        {"victim_arch": "lenet", "victim_digest": "1" * 16},
        {"victim_digest": "1" * 16},
    ],
)
def test_what_cannot_be_compared_is_apart(make: Any, rows: Rows, change: dict[str, Any]) -> None:
    found = arenas(rows([make(), make(**change)]))
    assert len(found) == 2
    assert len({arena.setting for arena in found}) == 2


def test_trainings_of_a_victim_in_a_study_are_seeds(make: Any) -> None:
    studied = [
        Entry("s", "plain", number, name, make(defense=spec, victim_digest=f"{number}" * 16, clone_accuracy=accuracy))
        for number, accuracy in ((0, 0.5), (1, 0.7))
        for name, spec in (("none", "none"), ("mad at 0.5", f"mad:epsilon=0.{number + 4}"))
    ]
    (arena,) = arenas(studied)
    assert arena.setting.victim == "small_cnn, standard"
    assert arena.specs["mad at 0.5"] == ("mad:epsilon=0.4", "mad:epsilon=0.5")
    worst = {one.defense: one.worst for one in rank(arena).standings}
    assert worst["mad at 0.5"].count == 2
    assert worst["mad at 0.5"].mean == pytest.approx(0.6)


def test_studies_share_a_victim_by_its_weights_and_not_by_its_name(make: Any) -> None:
    def row(study: str, name: str, digest: str, defense: str) -> Entry:
        return Entry(study, name, 0, defense, make(defense=defense, victim_digest=digest * 16))

    shared = arenas([row("s", "plain", "1", "none"), row("t", "other", "1", "a")])
    assert [list(arena.specs) for arena in shared] == [["a", "none"]]
    apart = arenas([row("s", "plain", "1", "none"), row("t", "plain", "2", "a")])
    assert [arena.setting.victim for arena in apart] == [
        "small_cnn, standard (plain, 11111111)",
        "small_cnn, standard (plain, 22222222)",
    ]


def test_attackers_with_other_inputs_are_others(make: Any, rows: Rows) -> None:
    (arena,) = arenas(rows([make(), make(pool="digits", clone_accuracy=0.1), make(attack="jbda")]))
    assert sorted(arena.attackers.items()) == [
        ("jbda", "jbda"),
        ("knockoff (digits)", "knockoff"),
        ("knockoff (photo-patches)", "knockoff"),
    ]


def test_a_record_in_two_folders_counts_once(make: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name, [make(), make(seed=1)])
    (arena,) = arenas(read_rows([tmp_path / "a", tmp_path / "b"]))
    assert len(arena.records) == 2


def test_every_kind_of_source_gives_the_same_records(make: Any, tmp_path: Path) -> None:
    record = make(latency_ratios={"1": 1.5, "32": 1.2}, latency_ms={"1": 0.1})
    for name in ("assess", "cut", "bench"):
        (tmp_path / name).mkdir()
    write_parquet(tmp_path / "assess", [record])
    append_record(tmp_path / "cut", record)
    write_table(tmp_path / "bench", [Entry("s", "plain", 3, "none", record)])
    for source in (tmp_path / "assess", tmp_path / "assess" / "records.parquet", tmp_path / "cut", tmp_path / "bench"):
        (row,) = read_rows([source])
        assert row.record == record
    assert (row.study, row.victim_name, row.victim_seed) == ("s", "plain", 3)


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no records\.parquet"):
        read_rows([tmp_path])
    with pytest.raises(RunError, match="no records to rank"):
        arenas([])
