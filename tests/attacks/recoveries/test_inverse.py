"""Closed-form inverses, against the defenses themselves and against a scan of all rows of two classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelmoat.assessment.insight import DefenseInsight
from modelmoat.attacks.recoveries.inverse import Inverse
from modelmoat.core.errors import OptionError
from modelmoat.defenses import parse_defense

REVERSE_SIGMOID = [
    "reverse_sigmoid:beta=0.1",
    "reverse_sigmoid:beta=0.9",
    "reverse_sigmoid:beta=0.4,variant=odds_clamped",
]
DCP = ["dcp:beta=0.5,clamp=odds", "dcp:beta=0.9,clamp=prob"]

every_defense = pytest.mark.parametrize("spec", REVERSE_SIGMOID + DCP)
every_width = pytest.mark.parametrize("classes", [2, 10, 100])


def undo(spec: str, served: Tensor, assumed: str | None = None) -> Tensor:
    insight = DefenseInsight(parse_defense(spec))
    return Inverse(assumed=assumed).informed(insight).recover(served)


def serve(spec: str, rows: Tensor) -> Tensor:
    return parse_defense(spec).perturb(rows)


def distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs().sum(dim=1)


def random_rows(count: int, classes: int, scale: float) -> Tensor:
    random = torch.Generator().manual_seed(classes)
    return torch.softmax(scale * torch.randn(count, classes, generator=random), dim=1)


def sure_rows(count: int, classes: int) -> Tensor:
    """One class has nearly all, the others share a thousandth over six orders of magnitude."""
    random = torch.Generator().manual_seed(classes)
    rows = 10 ** (-6 * torch.rand(count, classes, generator=random))
    rows[:, 0] = 0
    rows *= 1e-3 / rows.sum(dim=1, keepdim=True)
    rows[:, 0] = 1 - 1e-3
    return rows


@every_width
@every_defense
def test_sure_rows_come_back(spec: str, classes: int) -> None:
    rows = sure_rows(20, classes)
    served = serve(spec, rows)
    if spec.startswith("reverse_sigmoid") and classes > 2:
        assert float(distance(served, rows).min()) > 0.02
    assert float(distance(undo(spec, served), rows).max()) < 1e-3


@pytest.mark.parametrize("classes", [2, 10])
@every_defense
def test_what_comes_out_is_served_as_received(spec: str, classes: int) -> None:
    rows = torch.cat([random_rows(40, classes, scale) for scale in (0.3, 1.0, 2.0, 4.0)])
    served = serve(spec, rows)
    found = undo(spec, served)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(rows)), atol=1e-5, rtol=0)
    off = distance(serve(spec, found), served)
    assert float((off < 1e-3).float().mean()) > 0.9  # DCP has few rows within its gate, neither open nor shut


@pytest.mark.parametrize("scale", [4.0, 8.0])
@pytest.mark.parametrize("classes", [10, 100])
@every_defense
def test_answers_such_as_classifiers_give_come_much_closer(spec: str, classes: int, scale: float) -> None:
    rows = random_rows(40, classes, scale)
    served = serve(spec, rows)
    assert float(distance(undo(spec, served), rows).mean()) < 0.6 * float(distance(served, rows).mean())


@pytest.mark.parametrize("spec", [*REVERSE_SIGMOID, "dcp:beta=1.2,clamp=odds", "dcp:beta=1.2,clamp=prob"])
def test_of_two_classes_one_of_all_explanations_is_found(spec: str) -> None:
    entries = torch.cat([torch.logspace(-8, -2, 20_000), torch.linspace(0.01, 0.5, 20_000)]).double()
    entries = torch.cat([entries, 1 - entries])
    scanned = torch.stack([entries, 1 - entries], dim=1).float()
    all_served = serve(spec, scanned)
    rows = random_rows(60, 2, 2.0)
    served = serve(spec, rows)
    found = undo(spec, served)
    unique = 0
    for row, seen, back in zip(rows, served, found, strict=True):
        explains = scanned[(all_served - seen).abs().sum(dim=1) < 2e-3]
        near = (explains - back).abs().sum(dim=1).min()
        assert float(near) < 5e-3
        if float(explains[:, 0].max() - explains[:, 0].min()) < 5e-3:
            unique += 1
            assert float((back - row).abs().sum()) < 0.02
    assert unique > 5 or spec.startswith("dcp")


@every_width
@every_defense
def test_extreme_rows_stay_on_the_simplex(spec: str, classes: int) -> None:
    tie = torch.zeros(1, classes)
    tie[0, :2] = 0.5
    rows = torch.cat([torch.eye(classes)[:3], torch.full((1, classes), 1 / classes), tie])
    served = serve(spec, rows)
    found = undo(spec, torch.cat([served, rows]))  # rows that nothing is served as, too
    assert torch.isfinite(found).all()
    assert float(found.min()) >= 0
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)), atol=1e-5, rtol=0)
    one_hot = min(classes, 3)
    torch.testing.assert_close(found[:one_hot], rows[:one_hot], atol=2e-4, rtol=0)


def test_answers_that_dcp_left_alone_stay_bit_by_bit() -> None:
    rows = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.05, 0.85], [0.4, 0.35, 0.25]])
    served = serve("dcp:beta=0.5", rows)
    found = undo("dcp:beta=0.5", served)
    assert torch.equal(found[:2], served[:2])
    assert not torch.equal(found[2], served[2])


@pytest.mark.parametrize("spec", ["none", "reverse_sigmoid:beta=0", "dcp:beta=0"])
def test_nothing_to_undo_leaves_rows_alone(spec: str, softmax_rows: Tensor) -> None:
    assert torch.equal(undo(spec, softmax_rows), softmax_rows)


def test_steps_are_undone_the_last_first() -> None:
    rows = sure_rows(30, 10) * 0.6 + torch.tensor([0.0, 0.4] + 8 * [0.0])
    chain = "reverse_sigmoid:beta=0.1+dcp:beta=0.7"
    served = serve("dcp:beta=0.7", serve("reverse_sigmoid:beta=0.1", rows))
    step = undo("dcp:beta=0.7", served)
    assert torch.equal(undo(chain, served), undo("reverse_sigmoid:beta=0.1", step))


def test_of_answers_clipped_to_zero_only_the_rest_can_be_told() -> None:
    rows = torch.tensor([[0.80, 0.15, 0.05], [0.80, 0.17, 0.03]])
    spec = "reverse_sigmoid:beta=5,gamma=1,variant=clipped"
    served = serve(spec, rows)
    assert float(served[:, 0].abs().max()) == 0
    found = undo(spec, served)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2), atol=1e-5, rtol=0)


def test_a_guessed_defense_is_undone_instead_of_the_true_one() -> None:
    rows = sure_rows(20, 10)
    served = serve("reverse_sigmoid:beta=0.4", rows)
    guessed = undo("none", served, assumed="reverse_sigmoid:beta=0.4")
    assert torch.equal(guessed, undo("reverse_sigmoid:beta=0.4", served))
    wrong = undo("reverse_sigmoid:beta=0.4", served, assumed="reverse_sigmoid:beta=0.1")
    assert float(distance(wrong, rows).mean()) > float(distance(guessed, rows).mean()) + 0.1


@pytest.mark.parametrize("spec", ["rounding:decimals=1", "dcp:beta=0.5+label_only", "mad_argmax"])
def test_defenses_without_an_inverse_are_refused(spec: str) -> None:
    with pytest.raises(OptionError, match="no closed-form inverse of"):
        Inverse().informed(DefenseInsight(parse_defense(spec)))


def test_nothing_is_recovered_without_knowing_what() -> None:
    with pytest.raises(OptionError, match="was told nothing"):
        Inverse().informed(None)
    with pytest.raises(OptionError, match="call informed"):
        Inverse().recover(torch.eye(3))
