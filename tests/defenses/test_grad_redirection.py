from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from modelmoat.core.errors import ModelError, OptionError, UsageError
from modelmoat.data import ImageSet
from modelmoat.defenses import Preparation, parse_defense
from modelmoat.defenses._gram import per_sample_gram
from modelmoat.defenses.grad_redirection import GradRedirection, redirect
from modelmoat.models import ModelCard, TorchPredictor, create_network, save_model
from modelmoat.training import FitSettings, fit, predict_top1
from modelmoat.victims import CleanAnswers

PREPARATION = Callable[..., Preparation]
ASKED = Callable[..., CleanAnswers]


def best_by_program(y: np.ndarray, gains: np.ndarray, epsilon: float) -> float:
    """max gains . x over the simplex and the L1 ball, with x = y + a - b and a, b >= 0."""
    classes = len(y)
    signs = np.concatenate([np.eye(classes), -np.eye(classes)], axis=1)
    found = linprog(
        np.concatenate([-gains, gains]),
        A_ub=np.concatenate([np.ones((1, 2 * classes)), -signs]),
        b_ub=np.concatenate([[epsilon], y]),
        A_eq=np.concatenate([np.ones(classes), -np.ones(classes)])[None],
        b_eq=[0.0],
    )
    assert found.status == 0
    return float(gains @ y - found.fun)


@pytest.mark.parametrize("classes", [2, 3, 10, 30])
def test_the_greedy_move_is_the_optimum_of_the_linear_program(classes: int) -> None:
    draw = torch.Generator().manual_seed(classes)
    for epsilon in (0.1, 0.6, 1.3, 2.0):
        y = torch.softmax(3 * torch.randn(8, classes, generator=draw, dtype=torch.float64), dim=1)
        y[0] = torch.eye(classes, dtype=torch.float64)[0]
        gains = torch.randn(8, classes, generator=draw, dtype=torch.float64).mul(4).round()  # with ties
        served = redirect(y, gains, epsilon)
        assert served.min() >= 0
        assert float((served - y).abs().sum(dim=1).max()) <= epsilon + 1e-9
        torch.testing.assert_close(served.sum(dim=1), torch.ones(8, dtype=torch.float64))
        for row in range(8):
            expected = best_by_program(y[row].numpy(), gains[row].numpy(), epsilon)
            assert float(served[row] @ gains[row]) == pytest.approx(expected, abs=1e-8)


def test_min_inner_works_against_each_rows_own_update(preparation: PREPARATION, asked: ASKED) -> None:
    setting = preparation(5)
    clean = asked(setting, 12, sharpness=10.0)
    ready = GradRedirection(surrogate="random", target="min_inner").prepare(setting)
    gram = per_sample_gram(ready.network, clean.inputs, 512)
    found = ready.gains(clean.probabilities, clean.inputs)
    expected = -(gram @ clean.probabilities[:, :, None])[:, :, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    served = ready.respond(clean)
    torch.testing.assert_close(served, redirect(clean.probabilities, expected, 1.0), atol=1e-5, rtol=0)

    def inner(rows: Tensor) -> Tensor:
        return torch.einsum("ni,nij,nj->n", rows, gram, clean.probabilities)

    assert bool((inner(served) < inner(clean.probabilities)).all())


def test_ones_and_weights_choose_their_own_directions(preparation: PREPARATION, asked: ASKED) -> None:
    setting = preparation(5)
    clean = asked(setting, 4)
    network = GradRedirection(surrogate="random").prepare(setting).network
    for target in ("ones", "weights"):
        ready = GradRedirection(surrogate="random", target=target).prepare(setting)  # type: ignore[arg-type]
        gains = ready.gains(clean.probabilities, clean.inputs)
        step = 1e-3
        with torch.no_grad():
            before = torch.log_softmax(network.double()(clean.inputs.double()), dim=1)
            moved = create_network("small_cnn", num_classes=5, input_shape=(1, 8, 8), seed=0).double().eval()
            moved.load_state_dict(network.state_dict())
            for weight in moved.parameters():
                weight.add_(1e-4 * step * (torch.ones_like(weight) if target == "ones" else weight))
            slopes = (torch.log_softmax(moved(clean.inputs.double()), dim=1) - before) / (1e-4 * step)
        torch.testing.assert_close(gains.double(), slopes, atol=1e-2, rtol=1e-2)


def test_the_student_learns_what_the_victim_answers(preparation: PREPARATION, many_digits: ImageSet) -> None:
    network = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0)
    fit(network, many_digits, many_digits.labels, FitSettings(epochs=8), seed=0)
    setting = Preparation(predictor=TorchPredictor(network), train=many_digits)
    answers = predict_top1(network, many_digits)
    agrees = [
        float((predict_top1(method.prepare(setting).network, many_digits) == answers).float().mean())
        for method in (GradRedirection(epochs=8), GradRedirection(surrogate="random"))
    ]
    assert agrees[0] > 0.7
    assert agrees[0] > agrees[1] + 0.2


def test_a_given_surrogate_is_checked(tmp_path: Path, preparation: PREPARATION) -> None:
    network = create_network("small_cnn", num_classes=4, input_shape=(1, 8, 8), seed=0)
    save_model(tmp_path, network, ModelCard.of(network, class_names=tuple("abcd"), recipe="none"))
    assert parse_defense(f"grad_redirection:surrogate={tmp_path}").prepare(preparation(4)).spec.endswith(str(tmp_path))
    with pytest.raises(ModelError, match="has 4 classes, the victim has 10"):
        GradRedirection(surrogate=str(tmp_path)).prepare(preparation(10))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("grad_redirection:epsilon=2.1", "epsilon=2.1: expected 0 to 2"),
        ("grad_redirection:epochs=0", "epochs=0"),
        ("grad_redirection:memory_mb=-1", "memory_mb=-1"),
        ("grad_redirection:target=one", "did you mean 'ones'"),
        ("grad_redirection:surrogate=/a,arch=lenet", "arch=lenet is for surrogate=student or random"),
    ],
)
def test_impossible_parameters_are_refused(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_defense(spec)


def test_a_gradient_that_does_not_fit_in_memory_is_refused(preparation: PREPARATION, asked: ASKED) -> None:
    setting = preparation(5)
    ready = parse_defense("grad_redirection:surrogate=random,target=min_inner,memory_mb=0.1").prepare(setting)
    with pytest.raises(OptionError, match=r"memory_mb=0.1: .* fix: memory_mb=1 or more"):
        ready.respond(asked(setting))
