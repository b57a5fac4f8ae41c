from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmoat.assessment import Kept, assess
from modelmoat.assessment.suites import SUITES, Suite, find_suite
from modelmoat.attacks import ATTACKS, RECOVERIES, parse_attack
from modelmoat.core.errors import OptionError, UnknownReference
from modelmoat.core.records import Record
from modelmoat.defenses import parse_defense
from modelmoat.victims import OutputFormat

Run = Callable[..., list[Record]]

FEW = ("knockoff", "knockoff:targets=label", "knockoff+accounts:count=3", "data_at_hand:share=0.01", "no_victim")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of attackers that are done in a second."""
    monkeypatch.setitem(SUITES, "few", Suite("few", 3, (*FEW, "knockoff:targets=label", "knockoff+inverse")))


@pytest.mark.parametrize("name", list(SUITES))
def test_every_attacker_of_a_suite_exists_and_is_named_once(name: str) -> None:
    suite = SUITES[name]
    assert [attack.spec for attack in suite.attackers()] == list(suite.attacks)
    assert len(set(suite.attacks)) == len(suite.attacks)


def test_larger_suites_hold_the_smaller_ones() -> None:
    quick, standard, full = (set(SUITES[name].attacks) for name in ("quick", "standard", "full"))
    assert quick < standard < full
    assert {attack.partition(":")[0] for attack in full} >= set(ATTACKS.names())
    recoveries = {step.partition(":")[0] for attack in full for step in attack.split("+")[1:]}
    assert recoveries | {"label_only"} >= set(RECOVERIES.names())  # the same as targets=label


def test_an_unknown_suite_names_the_known_ones(spec: Callable) -> None:
    with pytest.raises(UnknownReference, match="suite 'standart': expected one of quick, standard, full"):
        find_suite("standart")
    with pytest.raises(UnknownReference):
        spec(suite="standart")


def test_a_suite_attacks_what_it_can_and_says_what_stays_out(few: None, run: Run) -> None:
    defenses = tuple(map(parse_defense, ("none", "reverse_sigmoid:beta=0.5", "dcp")))
    SUITES["few"] = Suite("few", 4, (*SUITES["few"].attacks, "data_at_hand:share=0.5"))
    with pytest.warns(UserWarning, match="data_at_hand:share=0.5 of the suite stays out: .*validation images"):
        records = run(attacks=(), suite="few", defenses=defenses, budgets=(20,))
    found = {defense.spec: [r.attack for r in records if r.defense == defense.spec] for defense in defenses}
    alone = [name for name in FEW if "+" not in name]
    assert found["none"] == alone  # nothing to recover, no account worth a second
    assert found["reverse_sigmoid:beta=0.5"] == [*FEW, "knockoff+inverse"]
    assert found["dcp"] == [*FEW, "knockoff+inverse"]
    accounts = {record.attack: record.accounts for record in records if record.sent}
    assert accounts["knockoff+accounts:count=3"] == 3
    assert accounts["knockoff"] == 1


def test_a_suite_of_which_nothing_fits_is_refused_before_the_first_query(
    run: Run, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    monkeypatch.setitem(SUITES, "bare", Suite("bare", 1, ("megex",)))
    with (
        pytest.warns(UserWarning, match="megex of the suite stays out"),
        pytest.raises(OptionError, match="suite 'bare': no attacker in it fits"),
    ):
        run(attacks=(), suite="bare", budgets=(20,))
    assert asked == []


def test_answers_with_explanations_are_answers(run: Run, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records = run(attacks=(), suite="quick", budgets=(20,), output=OutputFormat.parse("probabilities+explanation"))
    plain = run(tmp_path / "plain", attacks=(parse_attack("knockoff"),), budgets=(20,))
    by_attack = {record.attack: record.clone_accuracy for record in records}
    assert {"knockoff", "knockoff:targets=label", "no_victim:labels=none"} <= by_attack.keys()
    assert by_attack["knockoff"] == next(record.clone_accuracy for record in plain)


def test_an_attacker_with_images_of_the_victims_kind_asks_those(few: None, run: Run) -> None:
    records = run(attacks=(), suite="few", budgets=(20,))
    kin = next(record for record in records if record.attack == "data_at_hand:share=0.01")
    other = next(record for record in records if record.attack == "knockoff")
    assert "split=validation" in kin.pool
    assert kin.pool_size < other.pool_size
    assert kin.pool_digest != other.pool_digest
    assert kin.sent == 20


def test_labels_of_a_defense_that_keeps_them_are_learned_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelmoat.attacks import Thief

    made: list[str] = []
    make = Thief._make
    monkeypatch.setattr(Thief, "_make", lambda self, *rest: made.append(rest[-1]) or make(self, *rest))
    label = parse_attacks("knockoff:targets=label")
    defenses = tuple(map(parse_defense, ("none", "label_only", "mad_argmax:surrogate=uniform")))
    records = run(attacks=label, defenses=defenses, budgets=(25,))
    assert len(made) == 1
    assert len({record.clone_accuracy for record in records}) == 1
    assert all(record.train_seconds > 0 for record in records)


def test_assessments_that_share_what_they_keep_train_and_ask_less_and_record_the_same(
    run: Run, spec: Callable, lasting: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelmoat.attacks import Thief
    from modelmoat.models import TorchPredictor

    made, asked = [], []
    make, predict = Thief._make, TorchPredictor.predict
    monkeypatch.setattr(Thief, "_make", lambda self, *rest: made.append(rest[-1]) or make(self, *rest))
    monkeypatch.setattr(TorchPredictor, "predict", lambda self, x: asked.append(len(x)) or predict(self, x))
    grid = [
        {"attacks": parse_attacks("knockoff:targets=label"), "budgets": (25,), "defenses": (parse_defense(name),)}
        for name in ("none", "mad_argmax:surrogate=uniform")
    ]
    alone = [lasting(row) for number, each in enumerate(grid) for row in run(tmp_path / f"alone-{number}", **each)]
    assert len(made) == 2
    paid = sum(asked)
    kept = Kept()
    together = [
        lasting(row)
        for number, each in enumerate(grid)
        for row in assess(spec(**each), tmp_path / f"together-{number}", kept=kept)
    ]
    assert together == alone
    assert len(made) == 3
    assert sum(asked) == 2 * paid - 25


def parse_attacks(*specs: str) -> tuple[Any, ...]:
    return tuple(map(parse_attack, specs))


def test_a_defense_is_bracketed_by_ceiling_and_floor(run: Run, tmp_path: Path) -> None:
    records = run(defenses=(parse_defense("rounding"),), bracketed=True, budgets=(10,))
    assert [record.defense for record in records] == ["none", "label_only", "rounding"]
    undefended = run(tmp_path / "bare", defenses=(parse_defense("none"),), bracketed=True, budgets=(10,))
    assert [record.defense for record in undefended] == ["none", "label_only"]
    labels = run(
        tmp_path / "labels", defenses=(parse_defense("rounding"),), bracketed=True, budgets=(10,), output=label_output()
    )
    assert [record.defense for record in labels] == ["rounding"]


def label_output() -> Any:
    from modelmoat.victims import OutputFormat

    return OutputFormat("label")


def test_benign_users_move_a_defense_with_a_memory(run: Run, tmp_path: Path) -> None:
    quiet = run(defenses=(parse_defense("modelguard_s:epsilon=1.5"),), budgets=(25,))
    busy = run(
        tmp_path / "busy", defenses=(parse_defense("modelguard_s:epsilon=1.5"),), budgets=(25,), benign_share=0.8
    )
    assert (quiet[0].benign_share, busy[0].benign_share) == (0.0, 0.8)
    assert quiet[0].sent == busy[0].sent == 25
    assert quiet[0].mean_l1 != busy[0].mean_l1  # their answers are among its centroids


def test_bad_scenarios_are_refused(spec: Callable) -> None:
    with pytest.raises(OptionError, match="accounts=0"):
        spec(accounts=0)
    with pytest.raises(OptionError, match="benign_share=1"):
        spec(benign_share=1.0)
