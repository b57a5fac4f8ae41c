"""Turning reversed answers around, against the reversal itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modelmoat.attacks.recoveries import queen_inverse
from modelmoat.attacks.recoveries.queen_inverse import QueenInverse, looks_reversed, unreverse
from modelmoat.core.errors import OptionError
from modelmoat.defenses._queen_reversal import reverse


@pytest.fixture
def expected() -> Tensor:
    """Unsure answers, as of networks after one epoch, [400, 10]."""
    return torch.softmax(torch.randn(400, 10, generator=torch.Generator().manual_seed(5)), dim=1)


def test_what_comes_out_is_reversed_to_what_was_served(expected: Tensor, softmax_rows: Tensor) -> None:
    served = reverse(expected, softmax_rows)
    found = unreverse(served, expected)
    assert float(found.min()) >= 0
    torch.testing.assert_close(found.sum(dim=1), torch.ones(400))
    torch.testing.assert_close(reverse(expected, found), served, atol=2e-5, rtol=0)


def test_answers_come_much_closer_to_clean_ones(expected: Tensor, softmax_rows: Tensor) -> None:
    served = reverse(expected, softmax_rows)
    found = unreverse(served, expected)
    before, after = ((rows - softmax_rows).abs().sum(dim=1).mean() for rows in (served, found))
    assert float(after) < 0.25 * float(before)
    same = found.argmax(dim=1) == softmax_rows.argmax(dim=1)
    assert float(same.float().mean()) > 0.8


def test_sure_answers_and_answers_without_zeros_come_back_exactly(expected: Tensor, softmax_rows: Tensor) -> None:
    sure = torch.eye(10).repeat(40, 1)
    torch.testing.assert_close(unreverse(reverse(expected, sure), expected), sure, atol=1e-5, rtol=0)
    close = 0.8 * expected + 0.2 * softmax_rows
    inside = (close < 2 * expected).all(dim=1)
    assert int(inside.sum()) > 20
    found = unreverse(reverse(expected, close), expected)
    torch.testing.assert_close(found[inside], close[inside], atol=1e-5, rtol=0)


def test_zeros_beside_several_others_look_reversed() -> None:
    rows = torch.tensor([[0.0, 0.7, 0.3], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3]])
    assert looks_reversed(rows).tolist() == [True, False, False]


def test_only_reversed_answers_are_turned_around(
    expected: Tensor, loot: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = loot("none", 60)
    q = expected[:60]
    served = take.clean.clone()
    served[::3] = reverse(q, take.clean)[::3]
    turned = looks_reversed(served)
    assert int(turned.sum()) >= 15
    monkeypatch.setattr(queen_inverse, "probabilities", lambda *_: q)
    found = (
        QueenInverse(shadows=2, epochs=1).restore(replace(take.transfer, targets=served), take.thief, "test").targets
    )
    assert torch.equal(found[~turned], served[~turned])
    torch.testing.assert_close(found[turned], unreverse(served, q)[turned])
    assert take.distance(found) < 0.5 * take.distance(served)


def test_without_reversed_answers_nothing_is_trained(loot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    take = loot("none", 30)
    monkeypatch.setattr(queen_inverse, "probabilities", lambda *_: pytest.fail("a shadow was trained"))
    assert take.recovered("queen_inverse") is take.transfer


@pytest.mark.parametrize("parameter", ["shadows", "epochs"])
def test_impossible_parameters_are_refused(parameter: str) -> None:
    with pytest.raises(OptionError, match=f"queen_inverse:{parameter}=0: expected at least 1"):
        QueenInverse(**{parameter: 0})
