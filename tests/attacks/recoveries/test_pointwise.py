"""Labels, temperature, confidence and transition matrices, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.attacks.recoveries import transition
from modelmoat.attacks.recoveries.confidence import Confidence
from modelmoat.attacks.recoveries.label_only import LabelOnly
from modelmoat.attacks.recoveries.temperature import Temperature
from modelmoat.attacks.recoveries.transition import Transition, forward_corrected, transition_matrix
from modelmoat.core.errors import OptionError
from modelmoat.training import FitSettings
from modelmoat.victims import Answers


def test_only_the_label_is_left() -> None:
    rows = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    assert LabelOnly().recover(rows).tolist() == [[0, 1, 0], [1, 0, 0]]
    received = LabelOnly().receive(Answers("probabilities", rows))
    assert received.kind == "label"
    assert received.values.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_before_a_training_labels_are_numbers(loot: Callable) -> None:
    take = loot("none", 20)
    found = take.recovered("label_only").targets
    assert torch.equal(found, take.transfer.targets.argmax(dim=1))
    again = LabelOnly().restore(replace(take.transfer, targets=found), take.thief, "test")
    assert torch.equal(again.targets, found)


def test_temperatures_worked_out_by_hand() -> None:
    rows = torch.tensor([[0.64, 0.36, 0.0], [0.25, 0.25, 0.5]])
    flat = Temperature(t=2.0).recover(rows)  # square roots, normalized
    root = 0.5**0.5
    torch.testing.assert_close(
        flat, torch.tensor([[0.8 / 1.4, 0.6 / 1.4, 0], [0.5, 0.5, root]]) / torch.tensor([[1], [1 + root]])
    )
    sharp = Temperature(t=0.5).recover(rows)  # squares, normalized
    torch.testing.assert_close(sharp[1], torch.tensor([1, 1, 4]) / 6)
    torch.testing.assert_close(Temperature(t=1.0).recover(rows), rows)


def test_a_temperature_is_undone_by_its_reciprocal(softmax_rows: Tensor) -> None:
    found = Temperature(t=0.5).recover(Temperature(t=2.0).recover(softmax_rows))
    torch.testing.assert_close(found, softmax_rows, atol=1e-6, rtol=1e-4)
    cold = Temperature(t=1e-3).recover(softmax_rows)
    clear = softmax_rows.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 0.05
    torch.testing.assert_close(cold[clear], LabelOnly().recover(softmax_rows)[clear])


def test_sure_answers_are_kept_with_their_images(loot: Callable) -> None:
    take = loot("none", 100)
    confidence = take.transfer.targets.amax(dim=1)
    least = float(confidence.median())
    kept = (confidence >= least).nonzero()[:, 0]
    found = take.recovered(f"confidence:least={least}")
    assert torch.equal(found.targets, take.transfer.targets[kept])
    everything = torch.arange(len(kept))
    assert torch.equal(found.images.batch(everything), take.transfer.images.batch(kept))


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.25, 1), (0.26, 2), (1.0, 4)])
def test_a_share_of_the_surest_is_left_in_any_case(share: float, count: int) -> None:
    rows = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    order = [1, 2, 0, 3]
    assert Confidence(least=1.0, share=share).kept(rows).tolist() == sorted(order[:count])


def noisy_labels(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """True labels, and what a defense that confuses them by a matrix serves."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(len(matrix), (count,), generator=random)
    return truth, torch.multinomial(matrix[truth], 1, generator=random)[:, 0]


def test_a_known_confusion_matrix_is_estimated() -> None:
    matrix = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.9, 0.1], [0.25, 0.25, 0.5]])
    truth, served = noisy_labels(matrix, 30_000)
    judged = 0.8 * F.one_hot(truth, 3) + 0.2 / 3
    torch.testing.assert_close(transition_matrix(judged, served), matrix, atol=0.02, rtol=0)


def test_only_the_surest_of_each_class_count_and_an_unseen_class_is_as_served() -> None:
    judged = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [0.5, 0.4, 0.1], [0.1, 0.9, 0.0]])
    labels = torch.tensor([0, 1, 2, 2, 1])
    found = transition_matrix(judged, labels, confident=0.5)
    assert found.tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]


def test_the_corrected_loss_worked_out_by_hand() -> None:
    matrix = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
    logits = torch.tensor(
        [[0.0, 0.0], [0.0, 1.0986123]]
    )  # (1/2, 1/2), (1/4, 3/4); through the matrix 3/8 and 3/16 for 0
    objective = forward_corrected(matrix)
    hard = objective(nn.Identity(), logits, torch.tensor([0, 1]))
    expected = -(torch.tensor([3 / 8, 13 / 16]).log()).mean()
    torch.testing.assert_close(hard, expected)
    torch.testing.assert_close(objective(nn.Identity(), logits, F.one_hot(torch.tensor([0, 1]), 2).float()), hard)


def test_the_corrected_loss_is_least_at_the_clean_answer(softmax_rows: Tensor) -> None:
    random = torch.Generator().manual_seed(0)
    matrix = 0.6 * torch.eye(10) + 0.4 * torch.softmax(torch.randn(10, 10, generator=random), dim=1)
    logits = softmax_rows.log().requires_grad_()
    loss = forward_corrected(matrix)(nn.Identity(), logits, softmax_rows @ matrix)
    (slope,) = torch.autograd.grad(loss, logits)
    assert float(slope.abs().max()) < 1e-7
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, softmax_rows @ matrix), logits)
    assert float(plain.abs().max()) > 1e-4


def test_a_defense_that_confuses_labels_is_seen_by_clones(loot: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = FitSettings(epochs=1, min_steps=150, batch_size=32, lr=0.05, precision="float32")
    take = loot("none", 600, fit=fit)
    matrix = torch.eye(10)
    matrix[3, 3], matrix[3, 5] = 0.6, 0.4
    random = torch.Generator().manual_seed(0)
    labels = torch.multinomial(matrix[take.clean.argmax(dim=1)], 1, generator=random)[:, 0]
    seen: list[Tensor] = []
    monkeypatch.setattr(transition, "forward_corrected", lambda found: seen.append(found))
    Transition().restore(replace(take.transfer, targets=labels), take.thief, "stage")
    [found] = seen
    torch.testing.assert_close(found.sum(dim=1), torch.ones(10))
    assert 0.2 < float(found[3, 5]) < 0.7
    assert float(found[3, [3, 5]].sum()) > 0.9
    assert float(found.diag()[torch.arange(10) != 3].min()) > 0.6


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Temperature(t=0.0), "temperature:t=0.0: expected a positive number"),
        (lambda: Confidence(least=1.5), "confidence:least=1.5: expected 0 to 1"),
        (lambda: Confidence(share=0.0), "confidence:share=0.0: expected a share"),
        (lambda: Transition(confident=0.0), "transition:confident=0.0: expected a share"),
    ],
)
def test_impossible_parameters_are_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        build()
