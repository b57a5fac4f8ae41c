"""What published attacks are known to do: costs by formula, and how clones compare on a small task.

Costs of data-free attacks per iteration are in `test_data_free`, budgets that end within a batch in `test_conformance`,
preferences of the bandit in `test_bandit`, recoveries in `recoveries`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modelmoat.attacks import parse_attack
from modelmoat.attacks._zeroth_order import estimated_gradient, unit_directions
from modelmoat.attacks.thief import CLONE_FIT
from modelmoat.core.errors import BudgetExhausted
from modelmoat.data import load_splits
from modelmoat.models import load_model
from modelmoat.recipes import TrainingJob, create_recipe, train_victim
from modelmoat.training import as_float, predict_top1


@pytest.mark.parametrize(("count", "expected"), [(1, 0.141), (10, 0.412), (50, 0.711)])
def test_estimated_gradients_have_the_published_cosine(count: int, expected: float) -> None:
    size = 50
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(16, size, generator=random, dtype=torch.float64)
    points = torch.randn(1500, size, generator=random, dtype=torch.float64)

    def values(inputs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(inputs @ weights.T / size).square().sum(dim=-1)

    leaf = points.clone().requires_grad_()
    (truth,) = torch.autograd.grad(values(leaf).sum(), leaf)
    directions = unit_directions(count, points, random).double()
    step = 1e-6
    estimate = estimated_gradient(values(points + step * directions) - values(points), directions, step)
    cosine = F.cosine_similarity(estimate, truth, dim=1).square().mean().sqrt()
    assert float(cosine) == pytest.approx(math.sqrt(count / (count + size - 1)), rel=0.05)
    assert math.sqrt(count / (count + size - 1)) == pytest.approx(expected, abs=1e-3)


def test_jacobian_rounds_double_the_set_and_ask_no_point_again(steal: Callable, quick: Callable) -> None:
    seeds, rounds = 6, 5
    total = seeds * 2 ** (rounds - 1)
    heist = steal(quick("jbda", seeds=seeds), [total])
    assert [len(batch) for batch in heist.victim._sent] == [seeds, *(seeds * 2**number for number in range(rounds - 1))]
    ledger = heist.victim.ledger
    assert ledger.sent == total
    assert ledger.unique > 0.9 * total


def test_asking_the_whole_set_again_in_every_round_is_charged(steal: Callable, quick: Callable) -> None:
    """Of 150 seeds and 6 rounds that is 9,450 sent and 4,800 unique."""
    seeds, rounds = 6, 4
    total = seeds * (2**rounds - 1)
    heist = steal(quick("jbda", seeds=seeds, relabel=True), [10, total])
    sent = heist.victim._sent
    assert sum(map(len, sent)) == heist.victim.ledger.sent == total
    distinct = seeds * 2 ** (rounds - 1)
    assert 0.9 * distinct < heist.victim.ledger.unique <= distinct
    assert [theft.sent for theft in heist.thefts] == [10, total]
    assert torch.equal(torch.cat(sent)[: seeds * 2], torch.cat(sent)[seeds * 2 : seeds * 4])


@pytest.mark.parametrize(("budget", "inputs"), [(20, 6), (21, 7), (3, 1)])
def test_every_copy_for_an_average_is_charged_and_inputs_are_whole(budget: int, inputs: int, steal: Callable) -> None:
    heist = steal(parse_attack("knockoff+averaging:copies=3,over=repeats"), [budget], limit=budget)
    assert heist.victim.ledger.sent == 3 * inputs == heist.thefts[0].sent <= budget
    assert heist.victim.ledger.unique == inputs
    assert heist.thefts[0].budget == budget


@pytest.mark.parametrize("name", ["dfme", "maze", "jbda", "knockoff"])
def test_a_budget_past_the_limit_is_refused_before_anything_is_paid(
    name: str, steal: Callable, quick: Callable
) -> None:
    with pytest.raises(BudgetExhausted, match=r"50 queries: the victim answers 45 more; nothing was asked"):
        steal(quick(name), [20, 50], limit=45)
    assert steal.last.victim.ledger.sent == steal.last.answered == 0


# A victim trained to the end, and test images that nobody else saw


@dataclass(frozen=True)
class Trial:
    """Where clones are compared: the data, and how far soft answers and labels may lie apart on so many test images."""

    data: str
    arch: str
    epochs: int
    budget: int
    few: int
    apart: float


DIGITS = Trial("digits,pool=0.4", "small_cnn", epochs=30, budget=575, few=200, apart=0.04)
FASHION = Trial("fashion-mnist,pool=0.2", "lenet", epochs=6, budget=10_000, few=1000, apart=0.03)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("trial", [DIGITS, FASHION], ids=lambda trial: trial.data.partition(",")[0])
def test_clones_compare_as_published(
    trial: Trial, steal: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelmoat.attacks._jacobian._ROUND_STEPS", 200)
    name = trial.data.partition(",")[0]
    if name != "digits" and not Path(os.environ.get("MODELMOAT_DATA", ""), name).is_dir():
        pytest.skip(f"no folder {name} under $MODELMOAT_DATA")
    splits = load_splits(trial.data)
    fit = replace(CLONE_FIT, epochs=trial.epochs)
    job = TrainingJob(
        splits=splits, data=trial.data, data_seed=0, arch=trial.arch, fit=fit, seed=0, directory=tmp_path / "victim"
    )
    train_victim(create_recipe("standard"), job)
    steal.model = load_model(str(tmp_path / "victim"))
    victim = float(
        (steal.model.predict(as_float(splits.test.images)).argmax(dim=1) == splits.test.labels).float().mean()
    )

    def score(spec: str, budget: int) -> float:
        """Mean test accuracy of clones over two seeds."""
        found = []
        for seed in range(2):
            heist = steal(parse_attack(spec), [budget], seed=seed, fit=fit, clone_arch=trial.arch, pool=splits.pool)
            top1 = predict_top1(heist.thefts[0].clone, splits.test)
            found.append(float((top1 == splits.test.labels).float().mean()))
        return sum(found) / len(found)

    soft, hard = (score(spec, trial.budget) for spec in ("knockoff", "knockoff+label_only"))
    assert victim > 0.85
    assert soft > 0.9 * victim
    assert abs(soft - hard) < trial.apart
    assert score("jbda:seeds=50", trial.few) < score("knockoff", trial.few) - 0.03
