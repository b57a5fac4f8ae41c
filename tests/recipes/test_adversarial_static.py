from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import OptionError
from modelmoat.models import create_network
from modelmoat.recipes import TrainingJob, create_recipe, parse_recipe, train_victim
from modelmoat.recipes.adversarial_static import AdversarialStatic, Mixture, in_levels
from modelmoat.training import accuracy

MakeJob = Callable[..., TrainingJob]
FINE = 1e-6


@pytest.fixture
def network() -> nn.Module:
    return create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0)


def mixture(job: TrainingJob, network: nn.Module, **options: Any) -> Mixture:
    recipe = AdversarialStatic(**options)
    train = job.splits.train
    return Mixture(train, recipe.craft(network, train, job), recipe.epsilon, *recipe.picked(job))


def slope(network: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    leaf = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network.eval()(leaf), labels), leaf)
    return gradient


@pytest.mark.parametrize(
    ("ratio", "size", "changed"), [(0.0, 1.0, 0.0), (0.3, 1.0, 0.3), (1.0, 1.0, 1.0), (2.0, 2.0, 0.5)]
)
def test_a_ratio_decides_how_many_images_are_clean(
    tiny_job: MakeJob, network: nn.Module, ratio: float, size: float, changed: float
) -> None:
    job = tiny_job()
    train = job.splits.train
    mixed = mixture(job, network, ratio=ratio, attack="fgsm")
    rows = torch.arange(len(mixed))
    images = mixed.batch(rows)
    assert len(mixed) == len(mixed.labels) == size * len(train)
    clean = (train.images.float() / 255).repeat(round(size), 1, 1, 1)
    same = (images == clean).flatten(1).all(dim=1)
    assert int((~same).sum()) == round(changed * len(mixed))
    assert torch.equal(mixed.labels, train.labels.repeat(round(size)))
    if ratio == 2:
        assert bool(same[: len(train)].all()), "all clean images, then all adversarial ones"
    order = rows[torch.randperm(len(rows))]
    assert torch.equal(mixed.batch(order), images[order])


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.3])
def test_adversarial_images_stay_near_and_in_range(
    tiny_job: MakeJob, network: nn.Module, attack: Any, epsilon: float
) -> None:
    job = tiny_job()
    train = job.splits.train
    images = mixture(job, network, ratio=1.0, attack=attack, epsilon=epsilon).batch(torch.arange(len(train)))
    assert float((images - train.images.float() / 255).abs().max()) <= epsilon + FINE
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert images.dtype == torch.float32


def test_fgsm_takes_one_whole_step(tiny_job: MakeJob, network: nn.Module) -> None:
    job = tiny_job()
    clean, labels = job.splits.train.images.float() / 255, job.splits.train.labels
    images = mixture(job, network, ratio=1.0, attack="fgsm").batch(torch.arange(len(clean)))
    expected = (clean + 0.03 * slope(network, clean, labels).sign()).clamp(0, 1)
    near = (images - expected).abs() <= 0.03 / 254 + FINE
    assert float(near.float().mean()) > 0.999, "but for signs of gradients near zero"


def test_pgd_takes_four_steps_from_a_random_start(tiny_job: MakeJob, network: nn.Module) -> None:
    job = tiny_job(seed=5)
    clean, labels = job.splits.train.images.float() / 255, job.splits.train.labels
    recipe = AdversarialStatic()
    changes = recipe.craft(network, job.splits.train, job)
    assert torch.equal(recipe.craft(network, job.splits.train, job), changes)
    assert not torch.equal(recipe.craft(network, job.splits.train, tiny_job(seed=6)), changes)
    from modelmoat.core.seeds import generator

    points = (clean + 0.03 * (2 * torch.rand(clean.shape, generator=generator(5, "craft", 0)) - 1)).clamp(0, 1)
    for _ in range(4):
        points = points + 2 / 255 * slope(network, points, labels).sign()
        points = torch.min(torch.max(points, clean - 0.03), clean + 0.03).clamp(0, 1)
    found = clean + changes * (0.03 / 127)
    assert float(((found - points).abs() <= 0.03 / 254 + FINE).float().mean()) > 0.999


def test_levels_are_never_farther_and_off_by_half_of_one() -> None:
    changes = 0.05 * (2 * torch.rand(1000, generator=torch.Generator().manual_seed(0)) - 1)
    back = in_levels(changes, 0.05) * (0.05 / 127)
    assert float(back.abs().max()) <= 0.05 + 1e-8
    assert float((back - changes).abs().max()) <= 0.05 / 254 + 1e-8
    assert torch.equal(in_levels(torch.zeros(3), 0.0), torch.zeros(3, dtype=torch.int8))


def test_images_are_crafted_on_a_standard_network_and_taught_to_another(
    tiny_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted_on: list[nn.Module] = []
    craft = AdversarialStatic.craft

    def watched(self: AdversarialStatic, network: nn.Module, *given: Any) -> Tensor:
        crafted_on.append(network)
        return craft(self, network, *given)

    monkeypatch.setattr(AdversarialStatic, "craft", watched)
    job = tiny_job()
    card = train_victim(create_recipe("adversarial_static", epsilon=0.3), job)
    (standard,) = crafted_on
    train = job.splits.train
    attacked = mixture(job, standard, ratio=1.0, epsilon=0.3)
    assert accuracy(standard, attacked, attacked.labels) < accuracy(standard, train, train.labels)
    other = train_victim(create_recipe("adversarial_static", epsilon=0.3, attack="fgsm"), tiny_job("fgsm"))
    assert other.weights_digest != card.weights_digest
    assert torch.equal(crafted_on[1].head.weight, standard.head.weight), "the same network in both"  # type: ignore[union-attr]


def test_without_adversarial_images_it_is_standard_training(tiny_job: MakeJob) -> None:
    static = train_victim(create_recipe("adversarial_static", ratio=0.0), tiny_job("static"))
    plain = train_victim(create_recipe("standard"), tiny_job("plain"))
    assert static.weights_digest == plain.weights_digest


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("adversarial_static:ratio=1.5", "ratio=1.5: expected a share from 0 to 1, or 2 for all clean"),
        ("adversarial_static:ratio=-1", "ratio=-1.0: expected a share"),
        ("adversarial_static:epsilon=-1", "epsilon=-1.0: expected a number in"),
        ("adversarial_static:epsilon=8", "epsilon=8.0: expected a number in"),
        ("adversarial_static:steps=0", "steps=0: expected at least 1"),
        ("adversarial_static:step=0", "step=0.0: expected a positive number, such as 2/255"),
        ("adversarial_static:attack=apgd", "attack=apgd: expected one of fgsm, pgd"),
    ],
)
def test_impossible_parameters_are_refused(reference: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse_recipe(reference)
