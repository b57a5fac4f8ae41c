"""Identify and recover: the guess, what undoes it, and that it is kept only where it helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks.recoveries import _traits
from modelmoat.attacks.recoveries._traits import likeliest, traits
from modelmoat.attacks.recoveries.identify import Identify
from modelmoat.attacks.recoveries.inverse import Inverse
from modelmoat.attacks.recoveries.partial_bayes import PartialBayes
from modelmoat.attacks.recoveries.queen_inverse import QueenInverse
from modelmoat.attacks.thief import Transfer
from modelmoat.core.errors import ModelmoatError, OptionError
from modelmoat.defenses import parse_defense

CANDIDATES = ["none", "label_only", "top_k:k=3", "rounding:decimals=1", "reverse_sigmoid:beta=0.8"]
FEW = "none;rounding:decimals=1;reverse_sigmoid:beta=0.8"


@pytest.fixture(autouse=True)
def _trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_traits, "_TREES", 30)


def answers(seed: int, count: int = 300) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(5 * torch.randn(count, 10, generator=random), dim=1)


@pytest.mark.parametrize("spec", CANDIDATES)
def test_the_defense_is_the_likeliest_of_the_candidates(spec: str) -> None:
    served = {name: [parse_defense(name).perturb(answers(0))] for name in CANDIDATES}
    shares = likeliest(served, parse_defense(spec).perturb(answers(1)), size=32, sets=12, seed=0)
    assert max(shares, key=lambda name: shares[name]) == spec
    assert sum(shares.values()) == pytest.approx(1)


def test_traits_know_no_order_and_a_set_may_be_of_two_classes() -> None:
    rows = answers(2, 40)
    random = torch.Generator().manual_seed(0)
    shuffled = rows[torch.randperm(40, generator=random)][:, torch.randperm(10, generator=random)]
    torch.testing.assert_close(traits(shuffled), traits(rows))
    assert traits(rows).shape == traits(rows[:, :2] / rows[:, :2].sum(dim=1, keepdim=True)).shape
    assert torch.isfinite(traits(torch.eye(10))).all()


@pytest.mark.parametrize("spec", FEW.split(";"))
def test_the_defense_before_a_victim_is_named(spec: str, loot: Callable) -> None:
    take = loot(spec, 150)
    assert Identify(candidates=FEW, sets=12, size=32).guess(take.transfer, take.thief, "stage") == spec


@pytest.mark.parametrize(
    ("guess", "expected"),
    [
        ("reverse_sigmoid:beta=0.8", Inverse),
        ("dcp:beta=0.5+reverse_sigmoid:beta=0.1", Inverse),
        ("rounding:decimals=1", PartialBayes),
        ("queen", QueenInverse),
    ],
)
def test_a_formula_is_preferred_to_a_table(guess: str, expected: type, loot: Callable) -> None:
    take = loot("none", 20)
    found = Identify(candidates=FEW).against(guess, take.thief)
    assert isinstance(found, expected)
    assert expected is QueenInverse or found.assumed == guess


def test_targets_that_teach_more_are_kept_and_others_are_not(loot: Callable) -> None:
    take = loot("none", 300)
    labels = F.one_hot(take.clean.argmax(dim=1), 10).float()
    flat = replace(take.transfer, targets=0.999 * torch.full((300, 10), 0.1) + 0.001 * labels)
    sharp = replace(take.transfer, targets=labels)
    method = Identify(candidates=FEW)
    assert method.helps(flat, sharp, take.thief, "stage")
    assert not method.helps(sharp, sharp, take.thief, "stage")
    assert not method.helps(sharp, flat, take.thief, "stage")


def test_a_wrong_guess_changes_nothing(loot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    take = loot("none", 200)
    guess = "modelguard_w:epsilon=1.0"
    wrong = PartialBayes(assumed=guess, rows=2000)
    assert take.distance(wrong.restore(take.transfer, take.thief, "test").targets) > 0.05
    monkeypatch.setattr(Identify, "guess", lambda *_: guess)
    monkeypatch.setattr(Identify, "against", lambda *_: wrong)
    assert take.recovered("identify") is take.transfer


@pytest.mark.parametrize("helps", [True, False])
def test_a_guess_is_undone_where_that_helps(helps: bool, loot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    take = loot("reverse_sigmoid:beta=0.8", 150)
    judged: list[tuple[Transfer, Transfer]] = []

    def judge(self: Identify, before: Transfer, after: Transfer, *_: object) -> bool:
        judged.append((before, after))
        return helps

    monkeypatch.setattr(Identify, "helps", judge)
    found = take.recovered(f"identify:candidates=({FEW}),sets=12,size=32")
    [(before, after)] = judged
    assert before is take.transfer
    assert found is (after if helps else before)
    assert torch.equal(after.targets, take.recovered("inverse").targets)
    assert take.distance(after.targets) < 0.6 * take.distance()


def test_an_undefended_victim_needs_no_judge(loot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    take = loot("none", 150)
    monkeypatch.setattr(Identify, "helps", lambda *_: pytest.fail("nothing was recovered"))
    assert take.recovered(f"identify:candidates=({FEW}),sets=12,size=32") is take.transfer


def test_too_few_answers_are_left_alone(loot: Callable) -> None:
    take = loot("rounding:decimals=1", 9)
    assert take.recovered("identify") is take.transfer


def test_the_library_is_of_defenses() -> None:
    names = Identify().names
    assert len(names) == len(set(names)) >= 15
    for name in names:
        parse_defense(name)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"size": 1}, "size=1: expected at least 2"),
        ({"sets": 0}, "sets=0: expected at least 1"),
        ({"held_out": 1.0}, r"held_out=1.0: expected a share in \(0, 1\)"),
        ({"candidates": "none"}, "expected at least two"),
    ],
)
def test_impossible_parameters_are_refused(parameters: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Identify(**parameters)


def test_candidates_have_to_be_defenses(loot: Callable) -> None:
    insight = loot("none", 10).thief.insight
    with pytest.raises(ModelmoatError, match="no_such_defense"):
        Identify(candidates="none;no_such_defense").informed(insight)
    with pytest.raises(OptionError, match="was told nothing"):
        Identify().informed(None)
