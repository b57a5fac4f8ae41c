from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from modelmoat.core.errors import OptionError, UnknownReference, UsageError
from modelmoat.defenses import parse_defense
from modelmoat.studies.check import Check
from modelmoat.studies.claims import check_claims
from modelmoat.studies.study import load_study
from modelmoat.studies.units import plan_units

ROOT = Path(__file__).parents[2]


def test_a_study_is_read_with_its_defaults(write) -> None:
    study, _ = load_study(write())
    victim = study.victims["plain"]
    assert (victim.fit.epochs, victim.fit.lr, study.clone.fit.lr) == (1, 0.05, 0.05)
    assert [plan.name for plan in study.defenses] == ["none", "reverse_sigmoid (mean L1 of at most 0.5)"]
    assert study.defenses[0].defense == parse_defense("none")
    assert study.claims[0].published == "0.5"
    assert pickle.loads(pickle.dumps(study)) == study  # noqa: S301 - workers get it so


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("study: tiny", "study: tiny\nabuot: x", 2, "abuot: unknown key; did you mean 'about'"),
        ("arch: small_cnn", "arch: smal_cnn", 5, "victims.plain.arch: unknown architecture 'smal_cnn'; did you mean"),
        ("recipe: standard", "recipe: standrad", 6, "unknown recipe 'standrad'; did you mean 'standard'"),
        ("epochs: 1, batch_size: 32", "epoch: 1", 7, "victims.plain.fit.epoch: unknown key; did you mean 'epochs'"),
        ("epochs: 1, batch_size: 32", "epochs: many", 7, "victims.plain.fit.epochs: .* got 'many'"),
        ("epochs: 1, batch_size: 32", "epochs: 0", 7, "victims.plain.fit.epochs: epochs=0: expected at least 1"),
        ("- none", "- nnoe", 10, "defenses.0.defense: unknown defense 'nnoe'; did you mean 'none'"),
        ("- none", "- none\n  - none", 9, "'none' is there twice"),
        ("- none", "- none\n  - {name: plain, defense: none}", 9, "defenses: none and plain are the same; fix"),
        ("max_l1: 0.5", "max_l1: 3", 11, "defenses.1.calibrate.max_l1: .* got 3"),
        ("max_l1: 0.5, ", "", 11, "no limit given; fix: max_l1: 0.5"),
        ("attacks: [knockoff]", "suite: quik", 12, "suite 'quik': .* did you mean 'quick'"),
        ("attacks: [knockoff]", "", 1, "no attacker given; fix: attacks:"),
        ("attacks: [knockoff]", "attacks: [dfme]\noutput: label", 12, "dfme cannot use answers of kind 'label'"),
        ("budgets: [10, 20]", "budgets: [10, 10]", 14, "budgets: 10 is there twice"),
        ("budgets: [10, 20]", "budgets: [0]", 14, r"budgets.0: .* got 0"),
        ("budgets: [10, 20]", "budgets: [10, 20]\nbudgets: [3]", 15, "'budgets' is there twice, first in line 14"),
        ("budgets: [10, 20]", "budgets: [10, 20", 15, "expected ',' or ']'"),
        ("    source: nobody\n", "", 19, "claims.0.source: Field required"),
        ('"> 0.01"', "plausible", 23, "claims.0.expect: 'plausible': expected a comparison"),
        ("  plain:", "  pl/ain:", 3, "expected letters, digits"),
        (
            "study: tiny",
            "study: tiny\nextend: x.yaml",
            2,
            "extend: unknown key; did you mean 'extends'.* Known: .*extends",
        ),
        ("study: tiny", "study: tiny\n? [a, b]\n: 1", 2, "a list as a key, expected a name"),
        ("study: tiny", "study: tiny\nx: &a [1, *a]", 2, "a list that contains itself; fix"),
        ("study: tiny", "study: tiny\nx: &a {y: [*a]}", 2, "a mapping that contains itself; fix"),
        ("study: tiny", "study: tiny\nextends: [a, b]", 2, "extends: expected the path of one study file, got a list"),
        (
            "seeds: [0, 1]",
            "seeds: [0, 1]\ndevice: cdua",
            16,
            "device: device cdua: expected cpu, cuda or cuda:N; did you",
        ),
        ("seeds: [0, 1]", "seeds: [0, 1]\nrobust: 3", 16, "robust: expected text such as 'pgd', got 3"),
        ("budgets: [10, 20]", "budgets: 10", 14, "budgets: expected a list, got 10"),
        (
            "fit: {epochs: 1, min_steps: 5, precision: float32}",
            "fit: 3",
            17,
            "clone.fit: expected a mapping of keys to val",
        ),
        ('"> 0.01"', "0", 23, "claims.0.expect: expected text such as '> 0.1', got 0"),
        ("epochs: 1, batch_size: 32", "epochs: 1.5", 7, "victims.plain.fit.epochs: expected a whole number, got 1.5"),
        ("arch: small_cnn", "arch:", 5, "victims.plain.arch: expected text, got nothing"),
        ('"> 0.01"', "[0]", 23, r"claims.0.expect: expected text such as '> 0.1', got \[0\]"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(write, old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(OptionError, match=rf"study.yaml, line {line}\b.*{words}") as raised:
        load_study(write((old, new)))
    assert "\n" not in str(raised.value)


def test_two_names_for_one_victim_are_refused(write) -> None:
    victim = "  plain:\n    data: digits,pool=0.4\n    arch: small_cnn\n    recipe: standard\n"
    rest = "    fit: {epochs: 1, batch_size: 32, precision: float32}\n"
    path = write((victim, victim + rest + victim.replace("plain", "other")))
    with pytest.raises(OptionError, match="plain and other are the same; fix"):
        load_study(path)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [("", OptionError, "is empty"), ("- 1", OptionError, "line 1"), (None, UnknownReference, "name a YAML file")],
)
def test_what_is_no_study_is_refused(tmp_path: Path, text: str | None, error: type[UsageError], words: str) -> None:
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=words):
        load_study(path)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("data: digits,pool=0.4", "data: digts", 4, "victims.plain.data: .*digts"),
        ("arch: small_cnn", "arch: lenet", 5, "victims.plain.arch: "),
        ("- none", "- {defense: rounding+none, calibrate: {max_l1: 1, step: none}}", 10, "defenses.0: .*no parameter"),
        ("pool: digits,pool=0.4,split=pool", "pool: photo-patches", 13, "pool: .*fix: pool: photo-patches,grey,size=8"),
        (
            "pool: digits,pool=0.4,split=pool",
            "pool: digits,pool=0.4",
            13,
            "pool: .* shares .*train images.*drop_overlap: true",
        ),
        ("[knockoff]", '["data_at_hand:share=0.9"]', 12, "attacks.0: 'data_at_hand:share=0.9': .*fix: a smaller share"),
        ("[knockoff]", '["knockoff+confidence", knockoff]\noutput: top20', 13, "output: output top20: .*fix: top10"),
        ("fit: {epochs: 1, min", "init: nope\n  fit: {epochs: 1, min", 17, "clone.init: no weights 'nope': .*fix"),
        ("- none", "- none\n  - top_k:k=50", 11, "defenses.1: .*top_k:k=50"),
        ("budgets: [10, 20]", "budgets: [10, 20000]", 12, "attacks.0: budget 20,000: the pool has"),
        ("[knockoff]", "[knockoff+partial_bayes:assumed=nnoe]", 12, "attacks.0: .*nnoe"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_runs(
    write, old: str, new: str, line: int, words: str
) -> None:
    study, document = load_study(write((old, new)))
    with pytest.raises(OptionError, match=rf"study.yaml, line {line}, {words}"):
        Check(study, document).run(plan_units(study)[0])


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("SELECT seed, avg(clone_acuracy) FROM records GROUP BY seed", "SQL: .*clone_acuracy"),
        (
            "SELECT seed, defense_name FROM records",
            "the last column, defense_name, is of type VARCHAR; expected numbers",
        ),
        ("SELECT seed, latency_ms FROM records", r"the last column, latency_ms, is of type MAP\(.*expected numbers"),
        ('""', "SQL: nothing given, expected one query; fix: one SELECT"),
        ("CREATE TABLE other (a INT)", "SQL: CREATE given, expected one query; fix"),
    ],
)
def test_a_measure_that_cannot_give_numbers_is_refused(write, measure: str, words: str) -> None:
    old = "SELECT seed, avg(clone_accuracy) FROM records WHERE defense = 'none' GROUP BY seed"
    study, document = load_study(write((old, measure)))
    with pytest.raises(OptionError, match=rf"line 22, claims.0.measure: {words}"):
        check_claims(study.claims, document)


def test_an_alias_is_read_wherever_it_stands(write) -> None:
    path = write(("seeds: [0]", "seeds: &few [0]"), ("seeds: [0, 1]", "seeds: *few"))
    assert load_study(path)[0].seeds == (0,)


def test_what_an_assessment_leaves_out_of_a_pool_is_left_out(write) -> None:
    whole = ("pool: digits,pool=0.4,split=pool", "pool: digits\ndrop_overlap: true")
    study, document = load_study(write(whole))  # 1,797 images, 718 of them nobody's
    Check(study, document).run(plan_units(study)[0])
    study, document = load_study(write(whole, ("budgets: [10, 20]", "budgets: [1000]")))
    with pytest.raises(OptionError, match=r"line 12, attacks.0: budget 1,000: the pool has \d\d\d images"):
        Check(study, document).run(plan_units(study)[0])


def test_what_a_study_takes(write) -> None:
    study, document = load_study(write())
    trainings, assessments = plan_units(study)
    cost = Check(study, document).cost(trainings, assessments)
    assert (cost.victims, cost.runs, cost.cells, cost.queries) == (1, 4, 8, 80)
    assert cost.seconds > 0


def test_each_seed_trains_its_own_victim_unless_the_victim_has_seeds(write) -> None:
    crossed, _ = load_study(write())
    paired, _ = load_study(write(("    seeds: [0]\n", "")))
    seeds = [{(unit.victim.seed, unit.seed) for unit in plan_units(study)[1]} for study in (crossed, paired)]
    assert seeds == [{(0, 0), (0, 1)}, {(0, 0), (1, 1)}]


def test_a_folder_is_shared_by_more_attackers_and_not_by_other_settings(write) -> None:
    def first(*changes: tuple[str, str]) -> tuple[Path, str]:
        unit = plan_units(load_study(write(*changes))[0])[1][0]
        return unit.folder, unit.digest()

    folder, digest = first()
    more = first(("[knockoff]", "[knockoff, copycat]"))
    other = first(("min_steps: 5", "min_steps: 6"))
    claims = first(("The clone learns something.", "Something else."))
    renamed = first(("  - none", "  - {name: bare, defense: none}"))
    assert more[0] == folder
    assert more[1] != digest
    assert other[0] != folder
    assert claims == renamed == (folder, digest)


def test_a_study_extends_another(write, tmp_path: Path) -> None:
    base = write()
    larger = tmp_path / "more" / "larger.yaml"
    larger.parent.mkdir()
    larger.write_text("extends: ../study.yaml\nstudy: larger\nbudgets: [30]\n")
    study, document = load_study(larger)
    small, _ = load_study(base)
    assert (study.study, study.budgets) == ("larger", (30,))
    assert study.model_copy(update={"study": "tiny", "budgets": small.budgets}) == small
    assert str(document.error(("budgets",), "x")).startswith(f"{larger}, line 3, budgets")
    assert re.match(
        r".*study.yaml, line \d+, victims.plain.arch: x", str(document.error(("victims", "plain", "arch"), "x"))
    )


def test_mistakes_in_what_a_study_extends(write, tmp_path: Path) -> None:
    write(("  plain:\n", "  plain:\n    arc: lenet\n"))
    larger = tmp_path / "larger.yaml"
    larger.write_text("extends: study.yaml\nstudy: larger\n")
    with pytest.raises(OptionError, match=r"study.yaml, line 4, victims.plain.arc"):
        load_study(larger)
    larger.write_text("study: larger\nextends: larger.yaml\n")
    with pytest.raises(OptionError, match=r"larger.yaml, line 2, extends: 'larger.yaml' extends this file in turn"):
        load_study(larger)
    larger.write_text("study: larger\nextends: none.yaml\n")
    with pytest.raises(UnknownReference, match=r"larger.yaml, line 2, extends: there is no file '.*none.yaml'; fix"):
        load_study(larger)


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_the_project_can_be_read(path: Path) -> None:
    study, document = load_study(path)
    assert study.study == path.stem + ("-full" if path.parent.name == "full" else "")
    check_claims(study.claims, document)
