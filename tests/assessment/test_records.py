from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from modelmoat import __version__
from modelmoat.attacks import create_attack
from modelmoat.core.errors import OptionError
from modelmoat.core.records import Record, read_records
from modelmoat.core.runs import read_run
from modelmoat.data import load_splits
from modelmoat.defenses import create_defense
from modelmoat.models import ModelCard, load_artifact, load_card, load_model
from modelmoat.training import as_float, predict_logits

DEFENSES = (create_defense("none"), create_defense("rounding", decimals=1), create_defense("label_only"))
ATTACKS = (create_attack("knockoff"), create_attack("jbda", seeds=6, round_epochs=1))


def test_one_record_for_each_cell_with_plausible_fields(
    run: Callable[..., list[Record]], tiny_victim: Path, tmp_path: Path
) -> None:
    records = run(defenses=DEFENSES, attacks=ATTACKS, seeds=(0, 7))
    expected = [(d.spec, a.spec, s, b) for d in DEFENSES for a in ATTACKS for s in (0, 7) for b in (10, 25)]
    assert [(r.defense, r.attack, r.seed, r.budget) for r in records] == expected
    assert len({r.cell for r in records}) == len(records) == 24
    assert read_records(tmp_path / "run") == records
    card, splits = load_card(tiny_victim), load_splits("digits,pool=0.4")
    for r in records:
        assert r.sent == r.budget
        assert r.unique <= r.sent
        assert (r.victim, r.victim_digest, r.victim_arch) == (str(tiny_victim), card.weights_digest, "small_cnn")
        assert (r.victim_recipe, r.output_kind, r.clone_arch) == ("standard", "probabilities", "small_cnn")
        assert (r.data, r.test_size, r.test_digest) == ("digits,pool=0.4", 359, splits.test.digest)
        assert splits.pool is not None
        assert (r.pool_size, r.pool_digest) == (575, splits.pool.digest)
        assert r.victim_accuracy == pytest.approx(card.metrics["test_accuracy"])
        assert r.fidelity == pytest.approx(r.agreement_bits().mean())
        assert r.relative_accuracy == pytest.approx(r.clone_accuracy / r.victim_accuracy)
        assert (r.clone_steps, r.device, r.precision) == (5, "cpu", "float32")
        assert r.package_version == __version__
        assert min(r.query_seconds, r.train_seconds) > 0
        assert 0 < r.latency_ratio < 100
    assert {r.attacker_knows for r in records} == {attack.knows for attack in ATTACKS}


def test_utility_says_what_a_defense_costs(run: Callable[..., list[Record]]) -> None:
    plain, rounded, label = run(defenses=DEFENSES, budgets=(10,))
    assert plain.mean_l1 == plain.max_l1 == plain.top1_changed == 0
    assert plain.defended_accuracy == plain.victim_accuracy
    assert plain.defended_calibration_error == plain.calibration_error > 0
    assert plain.served_fidelity == plain.fidelity
    assert 0 < rounded.mean_l1 < label.mean_l1 <= label.max_l1 < 2
    assert rounded.max_l1 > rounded.mean_l1
    assert label.top1_changed == 0
    assert label.defended_accuracy == label.victim_accuracy
    assert label.defended_calibration_error == pytest.approx(1 - label.victim_accuracy)
    assert {plain.victim_accuracy, rounded.victim_accuracy, label.victim_accuracy} == {plain.victim_accuracy}


def test_a_kept_clone_is_the_one_that_was_measured(
    run: Callable[..., list[Record]], tiny_victim: Path, tmp_path: Path
) -> None:
    records = run(keep_clones=True, attacks=(create_attack("knockoff", targets="label"),), seeds=(3,))
    test = load_splits("digits,pool=0.4").test
    victim = load_model(str(tiny_victim)).predict(as_float(test.images)).argmax(dim=1)
    for record in records:
        clone, card = load_artifact(tmp_path / "run" / "clones" / record.cell)
        agrees = predict_logits(clone, test).argmax(dim=1) == victim
        assert np.array_equal(agrees.numpy(), record.agreement_bits())
        assert card.recipe == f"clone: knockoff:targets=label against none, {record.budget} queries, seed 3"
    assert not (tmp_path / "run" / "clones" / "other").exists()


def test_clones_are_not_kept_unless_asked(run: Callable[..., list[Record]], tmp_path: Path) -> None:
    run()
    assert not (tmp_path / "run" / "clones").exists()


@pytest.mark.parametrize(("output", "kind"), [("top3", "top-k"), ("label", "label")])
def test_the_output_format_is_not_charged_to_the_defense(
    output: str, kind: str, run: Callable[..., list[Record]]
) -> None:
    from modelmoat.victims import OutputFormat

    defenses = (create_defense("none"), create_defense("top_k", k=3))
    undefended, same = run(output=OutputFormat.parse(output), budgets=(10,), defenses=defenses)
    assert undefended.output_kind == same.output_kind == kind
    assert undefended.mean_l1 == undefended.top1_changed == 0
    assert undefended.calibration_error == undefended.defended_calibration_error
    assert (same.mean_l1 > 0) == (kind == "top-k"), "three classes of ten, renormalized: the same label"


def test_the_folder_says_how_the_run_was_made(
    run: Callable[..., list[Record]], tiny_victim: Path, tmp_path: Path
) -> None:
    records = run(price_per_1000=2.5, target_fidelity=0.6, seeds=(0, 1))
    info = read_run(tmp_path / "run")
    assert info is not None
    assert info.spec["victim"] == str(tiny_victim)
    assert (info.spec["attacks"], info.spec["defenses"]) == (["knockoff"], ["none"])
    assert (info.spec["budgets"], info.spec["seeds"]) == ([10, 25], [0, 1])
    assert (info.price_per_1000, info.target_fidelity) == (2.5, 0.6)
    assert info.hashes["pool"] == records[0].pool_digest
    table = pq.read_table(tmp_path / "run" / "records.parquet").to_pylist()
    assert [Record(**row) for row in table] == records


def test_a_cell_named_twice_is_one_cell(run: Callable[..., list[Record]], tmp_path: Path) -> None:
    twice = (create_attack("knockoff"), create_attack("knockoff", targets="soft"))
    records = run(attacks=twice, defenses=DEFENSES[:1] * 2, seeds=(0, 0), budgets=(10, 25, 10))
    assert [r.budget for r in records] == [10, 25]
    assert len(read_records(tmp_path / "run")) == 2


def test_progress_counts_records(run: Callable[..., list[Record]], stop_after: Callable) -> None:
    first, again = stop_after(), stop_after()
    run(observer=first, seeds=(0, 1))
    run(observer=again, seeds=(0, 1, 2))
    assert first.told == [(done, 4) for done in range(5)]
    assert again.told == [(4, 6), (5, 6), (6, 6)]


def test_seeds_of_the_attacker_change_what_is_sent(
    run: Callable[..., list[Record]], asked: list[torch.Tensor], unique_rows: Callable
) -> None:
    run(seeds=(0, 1), budgets=(25,))
    assert len(asked) == 50
    assert 25 < unique_rows(asked) <= 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attacks": ()}, "no attack given; fix"),
        ({"defenses": ()}, "no defense given; fix"),
        ({"budgets": ()}, "budgets .*at least one"),
        ({"budgets": (5, 0)}, "budgets .*1 or more"),
        ({"seeds": ()}, "seeds .*at least one"),
        ({"seeds": (-1,)}, "seeds .*from 0"),
        ({"seeds": (2**63,)}, "seeds .*9223372036854775807"),
        ({"price_per_1000": -1.0}, "price_per_1000=-1.0: expected"),
        ({"price_per_1000": float("inf")}, "price_per_1000=inf: expected"),
        ({"price_per_1000": float("nan")}, "price_per_1000=nan: expected"),
        ({"target_fidelity": 0.0}, "target_fidelity=0.0: expected a share"),
        ({"target_fidelity": 1.1}, "target_fidelity=1.1: expected a share"),
        ({"target_fidelity": float("nan")}, "target_fidelity=nan: expected a share"),
    ],
)
def test_impossible_specifications_are_refused(changes: dict, words: str, spec: Callable) -> None:
    with pytest.raises(OptionError, match=words):
        spec(**changes)


def test_records_of_an_int8_victim_say_what_conversion_did(
    run: Callable[..., list[Record]], int8_victim: tuple[Path, ModelCard]
) -> None:
    folder, card = int8_victim
    made = card.quantization
    assert made
    for record in run(victim=str(folder)):
        assert record.int8_bytes == made.graph_bytes
        assert (record.int8_agreement, record.int8_float_agreement) == (made.agreement, made.float_agreement)
