"""Tables, SQL and claims, over records that nobody measured."""

from __future__ import annotations

import statistics
from pathlib import Path

import pyarrow as pa
import pytest

from modelmoat.assessment.suites import find_suite
from modelmoat.core.errors import OptionError, RunError
from modelmoat.core.records import PARQUET_FILE, Record, StepCost, append_record, write_parquet
from modelmoat.studies.claims import judge
from modelmoat.studies.page import cell_rows, gap_rows
from modelmoat.studies.query import run_sql
from modelmoat.studies.study import Claim, load_study
from modelmoat.studies.table import STUDY_COLUMNS, Row, read_tables, schema, to_table, write_table
from modelmoat.studies.units import plan_units
from records import make_record
from study_rows import row

ROOT = Path(__file__).parents[2]


def test_the_columns_are_those_of_a_study_and_of_a_record() -> None:
    assert schema().names == [*STUDY_COLUMNS, *Record.model_fields]
    assert schema().field("clone_accuracy").type == pa.float64()
    assert schema().field("robust_size").type == pa.int64()


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    step = StepCost(spec="a", mean_l1=0.1, top1_changed=0.0, total_l1=0.2, total_top1_changed=0.0)
    rows = [row("a", latency_ms={"1": 0.25, "32": 2.0}, seed=2**63 - 1), row("b", defense_steps=[step])]
    write_table(tmp_path, rows)
    first, second = read_tables([tmp_path]).to_pylist()
    assert dict(first["latency_ms"]) == {"1": 0.25, "32": 2.0}
    assert first["seed"] == 2**63 - 1
    assert second["defense_steps"] == [step.model_dump()]
    assert second["latency_ms"] is None
    back = {name: value for name, value in second.items() if name not in STUDY_COLUMNS}
    assert Record.model_validate(back) == rows[1].record


def test_folders_are_merged_without_repeats(tmp_path: Path) -> None:
    write_table(tmp_path / "one", [row("a", seed=1), row("b")])
    write_table(tmp_path / "two", [row("a", seed=9), row("c"), row("a", defense="other")])
    merged = read_tables([tmp_path / "one", tmp_path / "two"]).to_pylist()
    assert [(one["cell"], one["defense_name"]) for one in merged] == [
        ("a", "none"),
        ("b", "none"),
        ("c", "none"),
        ("a", "other"),
    ]
    assert merged[0]["seed"] == 1


def test_a_folder_of_an_assessment_is_read_too(tmp_path: Path) -> None:
    write_parquet(tmp_path, [make_record(cell="a", latency_ms={"1": 1.0}), make_record(cell="b")])
    rows = read_tables([tmp_path]).to_pylist()
    assert [one["cell"] for one in rows] == ["a", "b"]
    assert rows[0]["study"] is None
    assert dict(rows[0]["latency_ms"]) == {"1": 1.0}


def test_an_assessment_that_still_runs_can_be_asked(tmp_path: Path) -> None:
    record = make_record(cell="a", latency_ms={"1": 1.0})
    append_record(tmp_path, record)
    with pytest.warns(UserWarning, match="has no table yet; records so far: 1$"):
        (row_so_far,) = read_tables([tmp_path]).to_pylist()
    write_parquet(tmp_path, [record])
    assert read_tables([tmp_path]).to_pylist() == [row_so_far]


def test_a_study_page_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"study": {"study": "x", "zeal": 1}}')
    with pytest.raises(RunError, match=r"study.json is of another version of modelmoat: .*fix"):
        read_tables([tmp_path])


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no records.parquet; fix: name a folder"):
        read_tables([tmp_path])
    (tmp_path / PARQUET_FILE).write_text("no parquet")
    with pytest.raises(RunError, match="cannot be read"):
        read_tables([tmp_path])


def test_sql_agrees_with_python() -> None:
    rows = [row(str(n), seed=n % 3, clone_accuracy=n / 10, latency_ms={"1": float(n)}) for n in range(9)]
    answer = run_sql(
        to_table(rows), "SELECT seed, avg(clone_accuracy), max(latency_ms['1']) FROM records GROUP BY 1 ORDER BY 1"
    )
    expected = [(s, statistics.mean(n / 10 for n in range(s, 9, 3)), 6.0 + s) for s in range(3)]
    for found, wanted in zip(answer.rows, expected, strict=True):
        assert found == pytest.approx(wanted)
    assert answer.columns[0] == "seed"


@pytest.mark.parametrize(
    "sql",
    [
        "COPY records TO '{}'",
        "SELECT * FROM read_csv('{}')",
        "SELECT * FROM read_text('{}')",
        "SELECT * FROM rows",
        "SET enable_external_access = true",
        "ATTACH '{}'",
        "SELEC 1",
        "",
        "SELECT 1; SELECT 2",
        "CREATE TABLE other (a INT)",
    ],
)
def test_sql_reaches_nothing_but_records(tmp_path: Path, sql: str) -> None:
    rows = to_table([row("a")])
    with pytest.raises(OptionError, match=r"^SQL: "):
        run_sql(rows, sql.format(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def claim(measure: str, expect: str) -> Claim:
    return Claim(text="t", source="s", published="1", measure=measure, expect=expect)


def test_claims_are_judged_by_the_interval_over_seeds() -> None:
    table = to_table([row(str(n), seed=n, clone_accuracy=value) for n, value in enumerate((0.4, 0.5, 0.6))])
    by_seed = "SELECT seed, clone_accuracy FROM records"
    claims = [
        claim(by_seed, "> 0.2"),  # 0.5 ± 0.248
        claim(by_seed, "> 0.3"),
        claim(by_seed, "> 0.8"),
        claim(by_seed + " WHERE seed > 5", "> 0"),
        claim("SELECT clone_accuracy FROM records WHERE seed = 0", "> 0"),
        claim("SELECT NULL FROM records", "> 0"),
    ]
    judged = judge(claims, table)
    assert [one.verdict for one in judged] == [
        "reproduced",
        "undecided",
        "not reproduced",
        "not tested",
        "undecided",
        "not tested",
    ]
    assert judged[0].mean == pytest.approx(0.5)
    assert judged[0].half_width == pytest.approx(4.302653 * 0.1 / 3**0.5)


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("SELECT seed, CAST(defense AS DOUBLE) FROM records", "Could not convert string 'none' to DOUBLE"),
        ("SELECT seed, 'infinity'::DOUBLE AS most FROM records", "the last column, most, has an infinite value; fix"),
        (
            "SELECT seed, defense_name FROM records",
            "the last column, defense_name, is of type VARCHAR; expected numbers",
        ),
    ],
)
def test_a_measure_that_fails_takes_no_other_verdict(measure: str, words: str) -> None:
    rows = [row(str(n), seed=n, clone_accuracy=0.5) for n in range(2)]
    works = claim("SELECT seed, clone_accuracy FROM records", "> 0.2")
    failed, judged = judge([claim(measure, "> 0"), works], to_table(rows))
    assert (failed.verdict, failed.values, failed.mean) == ("not tested", (), None)
    assert words in failed.error
    assert (judged.verdict, judged.error) == ("reproduced", "")


@pytest.mark.parametrize(
    "value",
    ["count(*)", "sum(budget)", "avg(fidelity)", "1.5", "max(seed)", "bool_and(defense_stateful)", "median(fidelity)"],
)
def test_every_kind_of_number_is_measured(value: str) -> None:
    table = to_table([row(str(n), seed=n, defense_stateful=True) for n in range(2)])
    (judgment,) = judge([claim(f"SELECT seed, {value} FROM records GROUP BY seed", "> -1")], table)  # noqa: S608 - our own
    assert (judgment.error, len(judgment.values)) == ("", 2)


def test_seeds_of_a_victim_and_settings_of_a_defense_are_averaged_as_one() -> None:
    rows = []
    for seed in range(3):
        common = {"seed": seed, "budget": 10, "sent": 10, "victim_digest": f"v{seed}"}
        labels = make_record(cell=f"l{seed}", defense="label_only", clone_accuracy=0.5, **common)
        calibrated = make_record(cell=f"m{seed}", defense=f"mad:epsilon={seed}", clone_accuracy=0.6, **common)
        rows += [Row("s", "plain", seed, "label_only", labels), Row("s", "plain", seed, "mad at 0.5", calibrated)]
    (gap,) = gap_rows(rows)
    assert gap["defense"] == "mad at 0.5"
    assert gap["gap"] == "+10.0 ± 0.0"
    assert [cell["seeds"] for cell in cell_rows(rows)] == [3, 3]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_claims_of_the_project_get_one_number_for_each_seed(path: Path) -> None:
    study, _ = load_study(path)
    suite = find_suite(study.suite).attackers() if study.suite else ()
    attackers = {attack.spec for attack in (*study.attacks, *suite)}
    rows = [
        Row.of(
            unit,
            make_record(
                cell=f"{unit.folder} {attack} {budget}",
                defense=unit.defense.defense.spec,
                attack=attack,
                budget=budget,
                seed=unit.seed,
                latency_ms={"256": 1.0},
                clone_robust_accuracy=0.5,
                top1_changed=0.0,
                defense_stateful=False,
            ),
        )
        for unit in plan_units(study)[1]
        for attack in attackers
        for budget in study.budgets
    ]
    for judgment in judge(study.claims, to_table(rows)):
        assert len(judgment.values) == len(study.seeds), judgment.text
