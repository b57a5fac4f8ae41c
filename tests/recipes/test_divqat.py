from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("torchao")

from modelmoat.core.errors import OptionError
from modelmoat.data import Splits
from modelmoat.models import load_artifact
from modelmoat.quantization import Simulated
from modelmoat.recipes import create_recipe
from modelmoat.recipes.divqat import DivQAT, _Loss, divergence
from modelmoat.training import TrainingDiverged, predict_logits

from .conftest import MakeJob
from .test_quantized import run, same

DIRECTIONS = ("q2f", "f2q", "js")


def rows(seed: int, count: int = 6, classes: int = 5) -> Tensor:
    return 2 * torch.randn(count, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(scores: Tensor, others: Tensor, temperature: float, direction: str, epsilon: float) -> list[float]:
    """One row and one class at a time."""
    found = []
    for z, y in zip(scores.tolist(), others.tolist(), strict=True):
        q, f = (np.exp(np.array(each) / temperature) for each in (z, y))
        q, f = q / q.sum(), f / f.sum()
        middle = (q + f) / 2
        sums = {
            "q2f": sum(a * math.log(a / max(b, epsilon)) for a, b in zip(q, f, strict=True)),
            "f2q": sum(b * math.log(b / a) for a, b in zip(q, f, strict=True)),
            "js": sum((a * math.log(a / m) + b * math.log(b / m)) / 2 for a, b, m in zip(q, f, middle, strict=True)),
        }
        found.append(sums[direction])
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergences_are_those_of_the_formula(direction: str, temperature: float) -> None:
    scores, others = rows(0), rows(1)
    found = divergence(scores, others, temperature, direction, epsilon=0.05)
    np.testing.assert_allclose(found, by_hand(scores, others, temperature, direction, 0.05), atol=1e-9)
    assert float(divergence(scores, scores + 3, temperature, direction, epsilon=1e-9).abs().max()) < 1e-9


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_are_those_of_finite_differences(direction: str) -> None:
    scores, others = rows(2).requires_grad_(True), rows(3)
    assert torch.autograd.gradcheck(lambda z: divergence(z, others, 2.0, direction, epsilon=0.01), scores)


def test_the_gradient_of_f2q_is_that_of_the_closed_form() -> None:
    """At T = 1, of CE - alpha D by the scores: (1 - alpha) p_q - onehot + alpha p_f."""
    scores, others, labels, alpha = rows(4).requires_grad_(True), rows(5), torch.arange(6) % 5, 0.3
    loss = F.cross_entropy(scores, labels, reduction="sum")
    (loss - alpha * divergence(scores, others, 1.0, "f2q", epsilon=1e-4).sum()).backward()
    expected = (1 - alpha) * scores.softmax(1) - F.one_hot(labels, 5) + alpha * others.softmax(1)
    torch.testing.assert_close(scores.grad, expected.detach())


def test_the_gradient_of_q2f_is_that_of_the_closed_form() -> None:
    """p_q (log p_q - log p_f - D), where no reference is below epsilon."""
    scores, others = rows(6).requires_grad_(True), rows(7)
    distance = divergence(scores, others, 1.0, "q2f", epsilon=1e-9)
    distance.sum().backward()
    p = scores.softmax(1)
    expected = p * (p.log() - others.log_softmax(1) - distance[:, None])
    torch.testing.assert_close(scores.grad, expected.detach())


def test_q2f_is_bounded_by_epsilon_and_js_by_log_2() -> None:
    scores, others = 1e4 * rows(8), 1e4 * rows(9)
    assert float(divergence(scores, others, 1.0, "q2f", epsilon=1e-4).max()) == pytest.approx(math.log(1e4))
    assert float(divergence(scores, others, 1.0, "js", epsilon=1e-4).max()) == pytest.approx(math.log(2))


class Fixed(nn.Module):
    """Answers with the images themselves."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.shift


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("weighting", ["plain", "convex"])
def test_the_loss_is_that_of_the_formula(direction: str, weighting: str) -> None:
    recipe = create_recipe(
        "divqat",
        alpha=0.3,
        temperature=2.0,
        direction=direction,
        weighting=weighting,
        kappa=0.1,
        warmup=0.0,
        epsilon=1e-3,
    )
    assert isinstance(recipe, DivQAT)
    victim, reference = Fixed(1.0), Fixed(-0.5)
    scores, labels = rows(10).float(), torch.arange(6) % 5
    terms = _Loss(recipe, reference, steps=10)(victim, scores, labels)
    distances = np.minimum(by_hand(scores.double(), -0.5 * scores.double(), 2.0, direction, 1e-3), 0.1)
    assert max(distances) == 0.1
    share = 0.7 if weighting == "convex" else 1.0
    expected = share * float(F.cross_entropy(scores, labels)) - 0.3 * 4 * distances.mean()
    assert sum(term.item() for term in terms.values()) == pytest.approx(expected, rel=1e-5)
    sum(terms.values()).backward()
    assert victim.shift.grad is not None
    assert reference.shift.grad is None


def test_alpha_rises_over_the_first_steps() -> None:
    recipe = create_recipe("divqat", alpha=0.4, warmup=0.25, tune_epochs=2, kappa=100.0)
    assert isinstance(recipe, DivQAT)
    loss = _Loss(recipe, Fixed(-1.0), steps=8)
    scores, labels = rows(11).float(), torch.arange(6) % 5
    weights = []
    for epoch in range(2):
        loss.start_epoch(epoch)
        weights += [-loss(Fixed(1.0), scores, labels)["divergence"].item() for _ in range(8)]
    full = weights[-1]
    weights = [weight / full for weight in weights]
    assert weights[:4] == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert weights[4:] == pytest.approx([1.0] * 12)
    loss.start_epoch(0)
    assert -loss(Fixed(1.0), scores, labels)["divergence"].item() < weights[-1] * full / 4


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_saturated_scores_give_finite_losses_and_gradients(direction: str) -> None:
    recipe = create_recipe("divqat", alpha=0.3, temperature=1.0, direction=direction)
    assert isinstance(recipe, DivQAT)
    images = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]])
    victim = Fixed(1.0)
    terms = _Loss(recipe, Fixed(-1.0), steps=1)(victim, images, torch.tensor([0, 2]))
    sum(terms.values()).backward()
    assert all(math.isfinite(term.item()) for term in terms.values())
    assert victim.shift.grad is not None
    assert math.isfinite(float(victim.shift.grad))


def test_alpha_zero_is_qat_bit_for_bit(tiny_job: MakeJob) -> None:
    tuning = {"tune_epochs": 2, "tune_lr": 0.01}
    plain = run(create_recipe("qat", **tuning), tiny_job("qat"))
    assert same(run(create_recipe("divqat", alpha=0.0, **tuning), tiny_job("zero")), plain)
    assert not same(run(create_recipe("divqat", alpha=0.04, **tuning), tiny_job("some")), plain)


def test_answers_move_further_with_alpha(tiny_job: MakeJob, digits: Splits, tiny_victim: Path) -> None:
    network, _ = load_artifact(tiny_victim)
    exact = predict_logits(network, digits.train).double()
    found = []
    for alpha in (0.0, 0.08):
        recipe = create_recipe("divqat", start=str(tiny_victim), alpha=alpha, tune_epochs=2, tune_lr=0.02, max_drop=1.0)
        victim = run(recipe, tiny_job(str(alpha), splits=digits))
        scores = predict_logits(victim, digits.train).double()
        found.append(divergence(scores, exact, 4.0, "q2f", epsilon=1e-4).mean().item())
    assert found[1] > 3 * found[0]


def test_terms_are_logged_by_name(tiny_job: MakeJob) -> None:
    job = tiny_job()
    run(create_recipe("divqat", tune_epochs=2), job)
    lines = [json.loads(line) for line in (job.directory / "training.jsonl").read_text().splitlines()]
    assert [set(line["terms"]) for line in lines] == [{"cross_entropy", "divergence"}] * 2
    assert all(line["terms"]["divergence"] < 0 for line in lines)


@pytest.mark.parametrize("reference", ["ptq", "qat"])
def test_references_that_are_int8_stay_as_they_are(
    tiny_job: MakeJob, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Simulated, Simulated]] = []
    begin = _Loss.__init__

    def watched(self: _Loss, recipe: DivQAT, network: nn.Module, *, steps: int) -> None:
        assert isinstance(network, Simulated)
        seen.append((network, network.copy()))
        begin(self, recipe, network, steps=steps)

    monkeypatch.setattr(_Loss, "__init__", watched)
    job = tiny_job()
    victim = run(create_recipe("divqat", tune_epochs=2, reference=reference), job)
    ((frozen, before),) = seen
    assert same(frozen, before)
    assert not same(frozen, victim)
    assert (job.directory / "reference.training.jsonl").exists() == (reference == "qat")


def test_past_the_cliff_training_stops_with_the_accuracy(tiny_job: MakeJob) -> None:
    job = tiny_job()
    recipe = create_recipe("divqat", alpha=1.0, tune_epochs=8, tune_lr=0.2, max_drop=0.01, warmup=0.0)
    with pytest.raises(
        TrainingDiverged,
        match=r"validation accuracy fell to \d+.\d% from \d+.\d% at divqat:alpha=1.0, more than max_drop=0.01 allows: "
        r"alpha is past the cliff .*; fix: alpha=0.5 or a lower tune_lr, in another folder",
    ):
        run(recipe, job)


def test_a_diverging_training_is_said(tiny_job: MakeJob) -> None:
    recipe = create_recipe("divqat", tune_epochs=2, tune_lr=1e30, max_drop=1.0)
    with pytest.raises(
        TrainingDiverged, match=r"no range for its activations .*; expected finite .*; fix: lower .*tune_lr"
    ):
        run(recipe, tiny_job())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -0.1}, r"divqat:alpha=-0.1: expected a number in \[0, 1\]"),
        (
            {"alpha": 0.5, "direction": "f2q", "weighting": "convex"},
            "alpha=0.5: expected less than 0.5 for direction=f2q",
        ),
        ({"temperature": 0.0}, "temperature=0.0: expected a positive number"),
        ({"epsilon": 0.0}, "epsilon=0.0: expected a probability above 0"),
        ({"kappa": 0.0}, "kappa=0.0: expected a positive number of nats"),
        ({"warmup": 1.0}, r"warmup=1.0: expected a share in \[0, 1\)"),
        ({"max_drop": 0.0}, "max_drop=0.0: expected a share"),
    ],
)
def test_impossible_parameters_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create_recipe("divqat", **parameters)
