from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelmoat.core.errors import BudgetExhausted, OptionError
from modelmoat.victims import Ledger, Victim
from modelmoat.victims.hashing import input_keys


def test_one_input_answered_is_one_query(predictor: Any, inputs: Tensor) -> None:
    victim = Victim(predictor)
    victim.query(inputs[:4], "ann")
    victim.query(inputs[2:6], "bob")
    victim.query(inputs[:1].repeat(3, 1, 1, 1), "ann")
    assert (victim.ledger.sent, victim.ledger.unique) == (11, 6)
    assert victim.ledger.by_account == {"ann": 7, "bob": 4}
    assert victim.ledger.left is None
    assert predictor.asked == 11


BATCHES = st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.lists(st.integers(0, 9), min_size=1, max_size=6)))


@settings(deadline=None)
@given(BATCHES, st.integers(1, 20))
def test_counts_equal_those_of_a_plain_list(batches: list[tuple[str, list[int]]], budget: int) -> None:
    ledger = Ledger(budget)
    images = torch.arange(10, dtype=torch.float32).reshape(-1, 1, 1, 1)
    answered: list[tuple[str, int]] = []
    for account, rows in batches:
        if len(answered) + len(rows) > budget:
            with pytest.raises(BudgetExhausted):
                ledger.admit(len(rows))
        else:
            ledger.admit(len(rows))
            ledger.record(input_keys(images[rows]), account, torch.zeros(len(rows), 2))
            answered += [(account, row) for row in rows]
        assert ledger.sent == len(answered)
        assert ledger.unique == len({row for _, row in answered})
        assert ledger.left == budget - len(answered)
        assert sum(ledger.by_account.values()) == len(answered)


def test_a_batch_past_the_budget_is_refused_whole(predictor: Any, inputs: Tensor) -> None:
    victim = Victim(predictor, ledger=Ledger(5))
    victim.query(inputs[:3])
    with pytest.raises(BudgetExhausted) as caught:
        victim.query(inputs[3:6])
    assert str(caught.value) == (
        "3 inputs were sent with 2 of 5 queries left; none was answered or charged; "
        "fix: send at most 2, or raise the budget"
    )
    assert (victim.ledger.sent, victim.ledger.unique, victim.ledger.left) == (3, 3, 2)
    assert predictor.asked == 3
    assert len(victim.query(inputs[:2])) == 2
    assert victim.ledger.left == 0
    with pytest.raises(BudgetExhausted, match="1 inputs were sent with 0 of 5 queries left"):
        victim.query(inputs[:1])


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_of_nothing_is_refused(budget: int) -> None:
    with pytest.raises(OptionError, match=f"budget={budget}: expected at least 1 query"):
        Ledger(budget)


def test_the_key_of_an_input_is_that_of_its_pixels(inputs: Tensor) -> None:
    keys = input_keys(inputs)
    assert keys.dtype.itemsize == 16
    assert len({key.tobytes() for key in keys}) == len(inputs)
    turned = inputs.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert (input_keys(turned) == keys).all()
    assert (input_keys(inputs[5:]) == keys[5:]).all()
    changed = inputs.clone()
    changed[0, 0, 1, 1] += 2**-24
    assert input_keys(changed)[0] != keys[0]


def test_by_account_is_a_copy(predictor: Any, inputs: Tensor) -> None:
    victim = Victim(predictor)
    victim.query(inputs[:1])
    victim.ledger.by_account["default"] = 99
    assert victim.ledger.sent == 1
