from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.attacks import Thief, create_attack
from modelmoat.attacks.e3 import E3, TEMPERATURES, TemperedCrops, takes, tempered_divergence
from modelmoat.core.errors import OptionError
from modelmoat.models import Classifier, Network, create_network
from modelmoat.training import FitSettings, TensorImages, TrainingDiverged, predict_logits

SHAPE = (1, 4, 4)
PIXELS = math.prod(SHAPE)
CLASSES = 5


def random_rows(count: int, classes: int, seed: int, scale: float = 3.0) -> Tensor:
    return torch.softmax(scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_loss_worked_out_by_hand(temperature: float) -> None:
    answers = random_rows(6, 4, 0).double()
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q = answers ** (1 / temperature)
    q = q / q.sum(dim=1, keepdim=True)
    g = (logits / temperature).exp()
    g = g / g.sum(dim=1, keepdim=True)
    expected = temperature**2 * (q * (q / g).log()).sum(dim=1).mean()
    assert float(tempered_divergence(logits, answers, temperature, 1e-12)) == pytest.approx(float(expected))


def test_a_high_temperature_compares_centered_scores() -> None:
    """T^2 KL tends to the sum of squared differences over 2K."""
    answers, logits = random_rows(50, 7, 0).double(), torch.randn(50, 7, dtype=torch.float64)
    wanted, given = (x - x.mean(dim=1, keepdim=True) for x in (answers.log(), logits))
    limit = ((wanted - given) ** 2).sum(dim=1).mean() / (2 * 7)
    assert float(tempered_divergence(logits, answers, 1e4, 1e-30)) == pytest.approx(float(limit), rel=1e-3)


def test_at_temperature_one_the_gradient_is_that_of_cross_entropy() -> None:
    answers = random_rows(8, 5, 0)
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (ours,) = torch.autograd.grad(tempered_divergence(logits, answers, 1.0, 1e-12), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, answers), logits)
    torch.testing.assert_close(ours, plain)


def test_answers_without_a_tail_have_a_finite_loss() -> None:
    answers = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0]])
    for temperature in TEMPERATURES:
        assert tempered_divergence(torch.zeros(2, 3), answers, temperature, 1e-7).isfinite()


class Linear(Network):
    """Logits W x + b, from small weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(PIXELS, CLASSES)
        self.head.weight.data = 0.1 * torch.randn(CLASSES, PIXELS, generator=torch.Generator().manual_seed(0))
        self.head.bias.data.zero_()

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@dataclass(frozen=True, kw_only=True)
class LinearThief(Thief):
    """Trains linear clones."""

    def new_clone(self, *names: object) -> Classifier:
        return Classifier(Linear(), arch="linear", input_shape=SHAPE, mean=(0.5,), std=(0.3,))


def thief(steps: int = 250) -> LinearThief:
    fit = FitSettings(
        epochs=1, min_steps=steps, batch_size=64, lr=0.2, weight_decay=0, augment="none", precision="float32"
    )
    return LinearThief(victim=None, pool=None, clone_arch="", fit=fit)  # type: ignore[arg-type]


@pytest.mark.parametrize("tails", ["true", "spoiled"])
def test_the_temperature_is_the_one_that_serves_the_answers(tails: str) -> None:
    """True tails tell all about a linear victim and call for T > 1; spoiled ones, with the true label, for T = 1."""
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(CLASSES, PIXELS, generator=random)
    images = torch.rand(1240, *SHAPE, generator=random)
    logits = ((images - 0.5) / 0.3).flatten(1) @ weight.T
    labels = logits.argmax(dim=1)
    count = 60 if tails == "true" else 240
    answers = torch.softmax(logits, dim=1)[:count]
    if tails == "spoiled":
        noise = torch.softmax(4 * torch.randn(count, CLASSES, generator=random), dim=1)
        answers = 0.55 * F.one_hot(labels[:count], CLASSES) + 0.45 * noise
    assert torch.equal(answers.argmax(dim=1), labels[:count])
    attack = create_attack("e3", low_epochs=0.0, held_out=0.5, choice_epochs=1.0)
    assert isinstance(attack, E3)
    chosen = attack.choose(thief(), TensorImages(images[:count]), answers, "clone")
    assert (chosen == 1.0) is (tails == "spoiled")
    right = {}
    for temperature in TEMPERATURES:
        clone, _ = attack._train(thief(), TensorImages(images[:count]), answers, "clone", temperature)
        right[temperature] = float((predict_logits(clone, images[240:]).argmax(dim=1) == labels[240:]).float().mean())
    assert right[chosen] >= max(right.values()) - 0.01
    assert right[chosen] > min(right.values()) + 0.02


def test_a_temperature_whose_clone_diverges_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    train = E3._train

    def only_small(self, thief, images, targets, stage, temperature, **named):
        if temperature > 4:
            raise TrainingDiverged("the mean loss is nan")
        return train(self, thief, images, targets, stage, temperature, **named)

    monkeypatch.setattr(E3, "_train", only_small)
    images = torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(0))
    answers = random_rows(40, CLASSES, 0)
    assert E3().choose(thief(4), TensorImages(images), answers, "clone") <= 4
    assert E3().choose(thief(4), TensorImages(images), answers.argmax(dim=1), "clone") == 1


def test_the_choice_sees_no_held_out_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    attack = create_attack("e3", held_out=0.1, choice_epochs=0.5)
    train = E3._train

    def watched(self, thief, images, targets, *rest, **named):
        seen.append(len(targets))
        assert len(images) == len(targets)
        return train(self, thief, images, targets, *rest, **named)

    monkeypatch.setattr(E3, "_train", watched)
    images = torch.rand(35, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert isinstance(attack, E3)
    attack._make(thief(4), TensorImages(images), random_rows(35, CLASSES, 0), "clone")
    assert seen == [31, 31, 31, 31, 35]


def test_a_given_temperature_and_labels_leave_nothing_to_choose(steal: Callable, quick: Callable) -> None:
    stages: dict[str, set[str]] = {}
    for name, attack, output in (
        ("given", quick("e3", temperature=20.0), "probabilities"),
        ("labels", quick("e3"), "label"),
        ("chosen", quick("e3"), "probabilities"),
    ):
        stages[name] = set()
        steal(attack, [20], output=output, progress=lambda stage, *_, name=name: stages[name].add(stage))
    assert stages["given"] == stages["labels"] == {"queries", "clone at 20"}
    assert {f"clone at 20, trying T = {t}" for t in (1, 4, 20, 100)} < stages["chosen"]


def test_labels_are_learned_by_cross_entropy(steal: Callable, quick: Callable, same: Callable) -> None:
    knockoff, e3 = (
        steal(quick(name, targets="label", **more), [30])
        for name, more in (("knockoff", {}), ("e3", {"low_epochs": 0.0}))
    )
    assert same(knockoff.weights(), e3.weights())


def crops(arch: str, size: int, low: int = 2) -> tuple[TemperedCrops, Classifier]:
    clone = create_network(arch, num_classes=10, input_shape=(1, size, size), seed=0)
    return TemperedCrops(E3(), clone, 4.0, low, seed=0), clone


def test_small_crops_come_first_and_whole_images_last() -> None:
    objective, clone = crops("small_cnn", 16)
    images, targets = torch.rand(4, 1, 16, 16), random_rows(4, 10, 0)
    sizes: list[int] = []
    clone.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    for epoch in range(4):
        objective.start_epoch(epoch)
        objective(clone, images, targets)
    assert sizes == [12, 12, 16, 16]


def test_a_network_of_one_size_gets_crops_scaled_back() -> None:
    objective, clone = crops("lenet", 28)
    assert not takes(clone, 21)
    assert takes(clone, 28)
    assert clone.training
    objective.start_epoch(0)
    assert objective.view(torch.rand(4, 1, 28, 28)).shape == (4, 1, 28, 28)
    assert objective(clone, torch.rand(4, 1, 28, 28), random_rows(4, 10, 0)).isfinite()


def test_an_epoch_repeats_its_crops() -> None:
    objective, _ = crops("small_cnn", 16)
    images = torch.rand(4, 1, 16, 16)
    views = []
    for epoch in (0, 1, 0):
        objective.start_epoch(epoch)
        views.append(objective.view(images))
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("temperature", 0.0),
        ("held_out", 0.0),
        ("held_out", 1.0),
        ("choice_epochs", 0.0),
        ("low_epochs", 1.5),
        ("low_size", 0.0),
        ("least_area", 0.0),
        ("floor", 0.0),
    ],
)
def test_impossible_parameters_are_refused(parameter: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"e3:{parameter}={value}: expected"):
        create_attack("e3", **{parameter: value})
