"""A suite that a defense can fool proves nothing of the defenses that hold against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelmoat.core.records import Record
from modelmoat.data import load
from modelmoat.defenses import DEFENSES, Preparation, parse_defense
from modelmoat.models import load_model
from modelmoat.report.gap import Gap, gaps
from modelmoat.training import as_float
from modelmoat.victims import CleanAnswers
from modelmoat.victims.clean import clean_answers

Attacked = Callable[..., list[Record]]

BUDGET = 600
NAIVE = "knockoff"
FOOLED = 0.10
EXPOSED = 0.05
REGAINED = 2 / 3
PRICE = 0.02
EVEN = 0.02
"""Differences of accuracy: naive clone under the floor, worst case under it, share regained, lost to benign users, noise."""


@pytest.fixture(scope="module")
def asked(victim: Path, pool: str) -> CleanAnswers:
    """More answers to images of the pool than any of the false defenses has patience for."""
    images = load(pool)
    return clean_answers(load_model(str(victim)), as_float(images.batch(torch.arange(BUDGET))), "somebody")


def judged(records: list[Record], defense: str) -> tuple[Gap, float]:
    """The worst case of a defense, and the accuracy of the naive attacker's clone."""
    (found,) = [gap for gap in gaps(records) if gap.defense == defense]
    (naive,) = [record for record in records if (record.defense, record.attack) == (defense, NAIVE)]
    assert naive.victim_accuracy - naive.defended_accuracy <= PRICE
    return found, naive.clone_accuracy


def assert_fooled_and_exposed(records: list[Record], defense: str) -> None:
    found, naive = judged(records, defense)
    lost = found.floor - naive
    assert lost >= FOOLED, f"{defense}: the naive clone has {naive:.3f}, floor {found.floor:.3f}"
    close, regained = found.gap.mean >= -EXPOSED, found.worst - naive >= REGAINED * lost
    assert close or regained, f"{defense}: worst case {found.worst:.3f}, floor {found.floor:.3f}, naive {naive:.3f}"


def under_standard(defense: str, attacked: Attacked) -> list[Record]:
    """The defense, its ceiling and its floor."""
    return [record for one in ("none", "label_only", defense) for record in attacked(one, suite="standard")]


@pytest.mark.parametrize(
    ("defense", "adaptive"),
    [
        ("false_decoy", "knockoff:targets=label"),
        ("false_quota", "knockoff+accounts"),
        ("false_far_gate", "data_at_hand:share=0.1"),
    ],
)
def test_a_simple_attacker_exposes_what_fools_the_naive_one(defense: str, adaptive: str, attacked: Attacked) -> None:
    records = [*attacked("label_only", "knockoff:targets=label"), *attacked(defense, NAIVE, adaptive)]
    assert_fooled_and_exposed(records, defense)
    assert judged(records, defense)[0].attack == adaptive


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_standard_suite_exposes(false_defense: str, attacked: Attacked) -> None:
    assert_fooled_and_exposed(under_standard(false_defense, attacked), false_defense)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_standard_suite_gets_no_more_from_labels_than_there_is(attacked: Attacked) -> None:
    found, _ = judged(under_standard("top_k:k=1", attacked), "top_k:k=1")
    assert abs(found.gap.mean) <= EVEN


def test_a_false_defense_does_what_it_says(false_defense: str, victim: Path, asked: CleanAnswers) -> None:
    method = parse_defense(false_defense)
    preparation = Preparation(predictor=load_model(str(victim)), train=load("digits,pool=0.4"))
    first, second = (method.prepare(preparation).respond(asked) for _ in range(2))
    assert torch.equal(first, second)
    assert float(first.min()) >= 0
    assert torch.allclose(first.sum(dim=1), torch.ones(len(first)))
    assert not torch.equal(first, asked.probabilities)
    if method.keeps_top1:
        assert torch.equal(first.argmax(dim=1), asked.probabilities.argmax(dim=1))


def test_false_defenses_are_many_and_no_part_of_the_package() -> None:
    false = [cls for cls in DEFENSES if cls.name.startswith("false_")]
    assert len(false) >= 14
    assert not any(cls.__module__.startswith("modelmoat") for cls in false)
