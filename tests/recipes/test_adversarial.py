from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import OptionError
from modelmoat.data import Splits, load_splits
from modelmoat.models import create_network, load_artifact
from modelmoat.recipes import TrainingJob, create_recipe, parse_recipe, train_victim
from modelmoat.recipes.adversarial import Adversarial
from modelmoat.training import FitSettings, TrainingDiverged
from modelmoat.training.evasion import parse_evasion

MakeJob = Callable[..., TrainingJob]


@pytest.fixture
def network() -> nn.Module:
    return create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0).train()


@pytest.fixture
def batch(few_digits: Splits) -> tuple[Tensor, Tensor]:
    return few_digits.train.images[:16].float() / 255, few_digits.train.labels[:16]


def test_a_batch_is_attacked_as_the_formula_says(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    epsilon = 0.1
    moved = Adversarial(epsilon=epsilon, steps=3).attack(network, images, labels, torch.Generator().manual_seed(4))
    assert network.training
    network.eval()
    draw = torch.rand(images.shape, generator=torch.Generator().manual_seed(4))
    points = (images + epsilon * (2 * draw - 1)).clamp(0, 1)
    for _ in range(3):
        leaf = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), labels), leaf)
        points = points + 2.5 * epsilon / 3 * gradient.sign()
        points = torch.min(torch.max(points, images - epsilon), images + epsilon).clamp(0, 1)
    assert float(((moved - points).abs() < 1e-6).float().mean()) > 0.999, "but for signs of gradients near zero"
    assert F.cross_entropy(network(moved), labels) > F.cross_entropy(network(images), labels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_stays_near_and_leaves_the_network_alone(
    network: nn.Module, batch: tuple[Tensor, Tensor], norm: Any
) -> None:
    images, labels = batch
    state = {name: value.clone() for name, value in network.state_dict().items()}
    moved = Adversarial(epsilon=0.2, norm=norm).attack(network, images, labels, torch.Generator().manual_seed(0))
    change = (moved - images).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert 0.1 < float(size.min()) <= float(size.max()) <= 0.2 + 1e-5
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_usual_step_is_the_default() -> None:
    default = Adversarial()
    assert 2.5 * default.epsilon / default.steps == pytest.approx(2 / 255)


def test_no_change_allowed_is_standard_training(tiny_job: MakeJob) -> None:
    plain = train_victim(create_recipe("standard"), tiny_job("standard"))
    attacked = train_victim(create_recipe("adversarial", epsilon=0.0, steps=1), tiny_job("adversarial"))
    assert attacked.weights_digest == plain.weights_digest


def test_bfloat16_trains_too(tiny_job: MakeJob) -> None:
    job = tiny_job(fit=replace(tiny_job().fit, precision="bfloat16", epochs=1))
    assert train_victim(create_recipe("adversarial", steps=2), job).precision == "bfloat16"


def test_a_diverging_training_stops_with_the_last_good_checkpoint(
    tiny_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    plain = Adversarial.attack

    def breaks(self: Adversarial, *given: Any) -> Tensor:
        calls.append(None)
        moved = plain(self, *given)
        return moved if len(calls) <= 3 else moved * torch.inf

    job = tiny_job()
    with monkeypatch.context() as patch:
        patch.setattr(Adversarial, "attack", breaks)
        with pytest.raises(TrainingDiverged, match="mean loss of epoch 2 is nan"):
            train_victim(create_recipe("adversarial", steps=2), job)
    assert [path.name for path in job.checkpoints] == ["checkpoint.safetensors"]
    assert not (job.directory / "model.json").exists()
    resumed = train_victim(create_recipe("adversarial", steps=2), job)
    whole = train_victim(create_recipe("adversarial", steps=2), tiny_job("whole"))
    assert resumed.weights_digest == whole.weights_digest


@pytest.mark.slow
def test_adversarial_training_makes_robust(tmp_path: Path) -> None:
    """On digits, against an attack of more steps and other starts than in training."""
    splits = load_splits("digits")
    fit = FitSettings(epochs=8, batch_size=64, lr=0.05, precision="float32")
    robust = {}
    for recipe in ("standard", "adversarial_static:epsilon=0.15,step=0.06", "adversarial:epsilon=0.15,steps=5"):
        folder = tmp_path / recipe.partition(":")[0]
        job = TrainingJob(
            splits=splits, data="digits", data_seed=0, arch="small_cnn", fit=fit, seed=0, directory=folder
        )
        train_victim(parse_recipe(recipe), job)
        network, _ = load_artifact(folder)
        images, labels = splits.test.images.float() / 255, splits.test.labels
        attack = parse_evasion("pgd:epsilon=0.15,steps=20,restarts=2")
        crafted = attack.craft(network, images, labels, torch.Generator().manual_seed(0))
        with torch.no_grad():
            robust[recipe] = float((network(crafted).argmax(1) == labels).double().mean())
    standard, static, minmax = robust.values()
    assert standard < static < minmax
    assert minmax > standard + 0.2


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (
            "adversarial:epsilon=-1",
            r"adversarial:epsilon=-1.0: expected a number in \[0, 1\], as pixels are, such as 8/255",
        ),
        ("adversarial:epsilon=8", "adversarial:epsilon=8.0: expected a number in"),
        ("adversarial:epsilon=nan", "adversarial:epsilon=nan: expected"),
        ("adversarial:norm=l1", "norm=l1: expected one of linf, l2"),
        ("adversarial:steps=0", "adversarial:steps=0: expected at least 1"),
        ("adversarial:step=0", "adversarial:step=0.0: expected a positive number, or none"),
    ],
)
def test_impossible_parameters_are_refused(reference: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse_recipe(reference)
