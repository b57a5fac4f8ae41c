from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelmoat.core.errors import OptionError
from modelmoat.defenses import parse_defense
from modelmoat.defenses.dcp import Dcp


def rows(count: int = 200, classes: int = 10, sharpness: float = 2.0) -> Tensor:
    return torch.softmax(sharpness * torch.randn(count, classes, generator=torch.Generator().manual_seed(0)), dim=1)


def by_hand(y: list[float], beta: float, gamma: float, nu: float, clamp: str) -> list[float]:
    """The formula for one row, in Python floats."""
    import math

    gate = 1 / (1 + math.exp(min(700.0, nu * (max(y) - beta))))
    kept = []
    for value in y:
        odds = value / (1 - value)
        odds = min(max(odds, 1e-12), 1.0) if clamp == "odds" else odds
        kept.append(value - gate * beta * (1 / (1 + math.exp(-gamma * math.log(odds))) - 0.5))
    return [value / sum(kept) for value in kept]


@pytest.mark.parametrize("clamp", ["odds", "prob"])
def test_rows_are_those_of_the_formula(clamp: str) -> None:
    y = rows(20)
    served = Dcp(beta=0.6, gamma=0.1, nu=30.0, clamp=clamp).perturb(y)  # type: ignore[arg-type]
    expected = torch.tensor([by_hand(row, 0.6, 0.1, 30.0, clamp) for row in y.double().tolist()])
    torch.testing.assert_close(served, expected, atol=1e-6, rtol=0)


def test_confident_answers_are_untouched() -> None:
    y = rows()
    served = Dcp(beta=0.4).perturb(y)
    sure = y.amax(dim=1) > 0.42
    unsure = y.amax(dim=1) < 0.38
    assert sure.sum() > 20
    assert unsure.sum() > 20
    assert (served - y)[sure].abs().max() < 1e-6
    assert (served - y)[unsure].abs().amax(dim=1).min() > 1e-3


def test_the_order_of_the_tail_is_inverted_and_that_of_the_head_kept() -> None:
    """Below y* = 0.22 beta gamma, about 0.022, less becomes more."""
    y = torch.tensor([[0.4, 0.35, 0.2, 0.02, 0.015, 0.01, 0.004, 0.001]])
    served = Dcp(beta=0.5).perturb(y)[0]
    assert bool((served[3:].diff() > 0).all())
    assert bool((served[:3].diff() < 0).all())


def test_both_clamps_agree_where_no_class_has_half() -> None:
    y = rows(sharpness=1.0)
    y = y[y.amax(dim=1) < 0.5]
    torch.testing.assert_close(Dcp(beta=0.8).perturb(y), Dcp(beta=0.8, clamp="prob").perturb(y), atol=1e-6, rtol=0)
    sure = torch.tensor([[0.9, 0.06, 0.04]])
    odds, prob = (Dcp(beta=1.0, clamp=clamp).perturb(sure) for clamp in ("odds", "prob"))
    assert prob[0, 0] < odds[0, 0] - 0.01


def test_keeping_the_top_class_swaps_two_entries() -> None:
    y = rows(500, 10, 1.0)
    plain, kept = Dcp(beta=1.5, clamp="prob").perturb(y), Dcp(beta=1.5, clamp="prob", keep_top1=True).perturb(y)
    moved = plain.argmax(dim=1) != y.argmax(dim=1)
    assert moved.sum() > 10
    assert torch.equal(kept.argmax(dim=1), y.argmax(dim=1))
    assert torch.equal(kept[~moved], plain[~moved])
    torch.testing.assert_close(kept.sort(dim=1).values, plain.sort(dim=1).values, atol=1e-5, rtol=0)
    assert parse_defense("dcp:keep_top1=true").keeps_top1
    assert not parse_defense("dcp").keeps_top1


@pytest.mark.parametrize("clamp", ["odds", "prob"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(clamp: str, kind: torch.dtype) -> None:
    y = torch.tensor([[1.0, 0.0, 0.0], [0.34, 0.33, 0.33], [0.999, 0.001, 0.0]]).to(kind)
    served = Dcp(beta=1.2, clamp=clamp).perturb(y)  # type: ignore[arg-type]
    assert served.dtype == kind
    assert served.isfinite().all()


@pytest.mark.parametrize("spec", ["dcp:beta=-0.1", "dcp:gamma=0", "dcp:nu=0", "dcp:beta=nan"])
def test_impossible_parameters_are_refused(spec: str) -> None:
    with pytest.raises(OptionError, match=spec.split("=")[0]):
        parse_defense(spec)
