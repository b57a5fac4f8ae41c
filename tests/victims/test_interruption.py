from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelmoat.core.errors import BudgetExhausted, RunError
from modelmoat.victims import Victim
from modelmoat.victims import victim as victim_module

MakePredictor = Callable[[], Any]
Queries = list[tuple[str, slice]]
QUERIES: Queries = [("ann", slice(0, 4)), ("bob", slice(2, 6)), ("ann", slice(0, 1)), ("ann", slice(6, 12))]


def ask(victim: Victim, inputs: Tensor, queries: Queries) -> Tensor:
    return torch.cat([victim.query(inputs[rows], account).values for account, rows in queries])


def counts(victim: Victim) -> tuple[int, int, dict[str, int], int | None]:
    ledger = victim.ledger
    return ledger.sent, ledger.unique, ledger.by_account, ledger.left


@pytest.mark.parametrize("done", range(len(QUERIES) + 1))
@pytest.mark.parametrize("output", ["probabilities", "top2", "label"])
def test_what_was_answered_is_not_asked_again(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor, done: int, output: str
) -> None:
    whole = Victim(make_predictor(), output=output).with_ledger(20)
    expected = ask(whole, inputs, QUERIES)
    path, first, second = tmp_path / "a.journal", make_predictor(), make_predictor()
    if done:
        ask(Victim(first, output=output).with_ledger(20, path), inputs, QUERIES[:done])
    resumed = Victim(second, output=output).with_ledger(20, path)
    assert resumed.ledger.sent == 0
    assert torch.equal(ask(resumed, inputs, QUERIES), expected)
    assert counts(resumed) == counts(whole) == (15, 12, {"ann": 11, "bob": 4}, 5)
    assert first.asked + second.asked == 15


def test_a_query_may_span_recorded_and_new_inputs(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor
) -> None:
    path, second = tmp_path / "a.journal", make_predictor()
    expected = ask(Victim(make_predictor()).with_ledger(None, path), inputs, [("a", slice(0, 3)), ("a", slice(3, 5))])
    resumed = Victim(second).with_ledger(None, path)
    assert torch.equal(ask(resumed, inputs, [("a", slice(0, 2)), ("a", slice(2, 9))])[:5], expected)
    assert second.asked == 4
    third = make_predictor()
    ask(Victim(third).with_ledger(None, path), inputs, [("a", slice(0, 9))])
    assert third.asked == 0


def test_a_long_query_keeps_the_batches_that_were_answered(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(victim_module, "BATCH", 5)
    predictor, path = make_predictor(), tmp_path / "a.journal"
    real = predictor.predict

    def dies(batch: Tensor) -> Tensor:
        if predictor.asked >= 10:
            raise KeyboardInterrupt
        return real(batch)

    predictor.predict = dies
    with pytest.raises(KeyboardInterrupt):
        Victim(predictor).with_ledger(12, path).query(inputs)
    second = make_predictor()
    resumed = Victim(second).with_ledger(12, path)
    assert torch.equal(resumed.query(inputs).values, Victim(make_predictor()).query(inputs).values)
    assert second.asked == 2
    assert resumed.ledger.left == 0


@pytest.mark.parametrize(
    "queries",
    [
        [("ann", slice(1, 4))],
        [("bob", slice(0, 4))],
        [("ann", slice(0, 4)), ("ann", slice(2, 6))],
        [("ann", slice(0, 5))],
    ],
)
def test_other_queries_than_the_recorded_ones_are_refused(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor, queries: Queries
) -> None:
    path, second = tmp_path / "a.journal", make_predictor()
    ask(Victim(make_predictor()).with_ledger(None, path), inputs, QUERIES)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"asks other inputs than the interrupted run.*fix: go on where it was started"):
        ask(Victim(second).with_ledger(None, path), inputs, queries)
    assert second.asked == 0
    assert path.read_bytes() == before


def test_the_journal_of_another_victim_is_refused(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor, turnstile: Callable[[], Any]
) -> None:
    path, other = tmp_path / "a.journal", make_predictor()
    ask(Victim(make_predictor()).with_ledger(None, path), inputs, QUERIES)
    other.digest = "f" * 16
    for victim in (
        Victim(other),
        Victim(make_predictor(), defense=turnstile()),
        Victim(make_predictor(), output="top2"),
    ):
        with pytest.raises(RunError, match="holds answers of"):
            victim.with_ledger(None, path)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_defense_with_state_goes_on_where_it_was(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor, turnstile: Callable[[], Any], done: int
) -> None:
    expected = ask(Victim(make_predictor(), defense=turnstile()), inputs, QUERIES)
    path, defense = tmp_path / "a.journal", turnstile()
    ask(Victim(make_predictor(), defense=turnstile()).with_ledger(None, path), inputs, QUERIES[:done])
    resumed = Victim(make_predictor(), defense=defense).with_ledger(None, path)
    assert torch.equal(ask(resumed, inputs, QUERIES), expected)
    assert defense.asked == {"ann": 11, "bob": 4}


def test_replayed_answers_count_against_the_budget(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor
) -> None:
    path = tmp_path / "a.journal"
    Victim(make_predictor()).with_ledger(4, path).query(inputs[:4])
    resumed = Victim(make_predictor()).with_ledger(4, path)
    resumed.query(inputs[:4])
    with pytest.raises(BudgetExhausted, match="1 inputs were sent with 0 of 4"):
        resumed.query(inputs[4:5])


def test_an_answer_that_could_not_be_recorded_is_not_charged(
    tmp_path: Path, make_predictor: MakePredictor, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.journal"
    victim = Victim(make_predictor()).with_ledger(8, path)
    victim.query(inputs[:3])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(RunError, match="No space left"):
            victim.query(inputs[3:6])
    assert counts(victim) == (3, 3, {"default": 3}, 5)
    victim.query(inputs[3:6])
    second = make_predictor()
    assert len(Victim(second).with_ledger(8, path).query(inputs[:6])) == 6
    assert second.asked == 0
