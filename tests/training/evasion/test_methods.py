from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelmoat.core.errors import ModelError, OptionError, UnknownReference
from modelmoat.training.evasion import EVASIONS, Ball, climb, log_odds, parse_evasion
from modelmoat.training.evasion.apgd import auto_climb, checkpoints

Seeded = Callable[[int], torch.Generator]
ALL = ["fgsm", "pgd", "pgd:loss=dlr", "pgd:loss=both,restarts=2", "apgd:steps=25"]


def craft(reference: str, network: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    return parse_evasion(reference).craft(network, images, labels, torch.Generator().manual_seed(seed))


def wrong(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1) != labels


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("reference", ALL)
def test_on_a_linear_model_the_best_change_is_found(
    reference: str, norm: str, linear: Callable[..., Any], gray: Tensor
) -> None:
    """The largest rise of w x + b over a ball is epsilon times the dual norm of w."""
    network, epsilon = linear(), 0.05 if norm == "linf" else 0.2
    labels = torch.zeros(len(gray), dtype=torch.int64)
    joined = "," if ":" in reference else ":"
    crafted = craft(f"{reference}{joined}norm={norm},epsilon={epsilon}", network, gray, labels)
    weight = network.weight.detach()
    rise = epsilon * (weight.abs().sum() if norm == "linf" else weight.square().sum().sqrt())
    reachable = network.margin(gray) + rise > 0
    assert 0.2 < float(reachable.double().mean()) < 0.9
    close = (network.margin(gray) + rise).abs() < 0.03 * rise
    assert torch.equal(wrong(network, crafted, labels)[~close], reachable[~close])
    missed = (network.margin(crafted) - network.margin(gray))[~reachable]
    assert bool((missed > 0.97 * rise).all()), "where no change is enough, the largest one is found"


@pytest.mark.parametrize("reference", ["fgsm", "pgd", "apgd:steps=25"])
def test_at_the_edge_of_the_range_each_pixel_goes_as_far_as_it_may(
    reference: str, linear: Callable[..., Any], seeded: Seeded
) -> None:
    network, epsilon = linear(), 0.1
    network.bias.data -= 100  # no change is enough, so the largest rise is wanted
    images = torch.rand(50, 2, 5, 5, generator=seeded(5)).round()
    labels = torch.zeros(50, dtype=torch.int64)
    crafted = craft(f"{reference}{',' if ':' in reference else ':'}epsilon={epsilon}", network, images, labels)
    best = (images + epsilon * network.weight.detach().reshape(2, 5, 5).sign()).clamp(0, 1)
    assert torch.allclose(network.margin(crafted), network.margin(best), atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("reference", ALL)
def test_crafted_images_stay_in_the_ball_and_in_the_range(reference: str, norm: str, digits: Any) -> None:
    for epsilon in (0.0, 0.1, 1.0 if norm == "linf" else 3.0):
        joined = "," if ":" in reference else ":"
        crafted = craft(
            f"{reference}{joined}norm={norm},epsilon={epsilon}", digits.network, digits.images[:15], digits.labels[:15]
        )
        change = (crafted - digits.images[:15]).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert float(size.max()) <= epsilon * (1 + 1e-5) + 1e-6
        assert 0 <= float(crafted.min()) <= float(crafted.max()) <= 1
        if not epsilon:
            assert torch.equal(crafted, digits.images[:15])


def test_an_attack_leaves_network_and_images_as_they_were(digits: Any) -> None:
    network, images = digits.network, digits.images[:20]
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = images.clone()
    for reference in ALL:
        craft(reference, network, images, digits.labels[:20])
    assert all(module.training for module in network.modules())
    network.eval()
    assert torch.equal(images, before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("reference", ["pgd:epsilon=0.1", "apgd:steps=10,epsilon=0.1"])
def test_the_seed_decides_what_is_crafted(reference: str, digits: Any) -> None:
    images, labels = digits.images[:10], digits.labels[:10]
    first = craft(reference, digits.network, images, labels)
    torch.manual_seed(3)
    assert torch.equal(craft(reference, digits.network, images, labels), first)
    assert not torch.equal(craft(reference, digits.network, images, labels, seed=1), first)


def test_more_steps_and_more_restarts_only_add_wrong_answers(digits: Any) -> None:
    network, images, labels = digits.network, digits.images, digits.labels

    def fooled(**options: float) -> Tensor:
        words = ",".join(f"{key}={value}" for key, value in options.items())
        return wrong(network, craft(f"pgd:epsilon=0.1,step=0.01,{words}", network, images, labels), labels)

    by_steps = [fooled(steps=steps) for steps in (1, 4, 12, 30)]
    by_restarts = [fooled(steps=4, restarts=restarts) for restarts in (1, 3, 8)]
    for nested in (by_steps, by_restarts):
        assert all(bool((small <= large).all()) for small, large in pairwise(nested))
        assert int(nested[0].sum()) < int(nested[-1].sum()) < len(labels)


def test_stronger_attacks_find_more(digits: Any) -> None:
    network, images, labels = digits.network, digits.images, digits.labels
    clean = int(wrong(network, images, labels).sum())
    fgsm, pgd, apgd = (
        int(wrong(network, craft(f"{name}epsilon=0.08", network, images, labels), labels).sum())
        for name in ("fgsm:", "pgd:", "apgd:steps=40,targets=2,")
    )
    assert clean < fgsm < pgd <= apgd < len(labels)


def test_being_sure_is_no_shelter(linear: Callable[..., Any], gray: Tensor) -> None:
    """Scaled logits give the same answers; a gradient that vanishes in float32 must not hide that they can be changed."""
    labels = torch.zeros(len(gray), dtype=torch.int64)
    calm, sure = linear(), linear(scale=1e4)
    for reference in ("fgsm", "pgd", "apgd:steps=20"):
        found = [wrong(network, craft(f"{reference}", network, gray, labels), labels) for network in (calm, sure)]
        assert torch.equal(*found)
        assert found[0].any()


def test_an_image_that_is_wrong_already_stays_wrong(digits: Any) -> None:
    labels = (digits.labels + 1) % 10
    for reference in ("pgd:epsilon=0.01", "apgd:steps=10,epsilon=0.01"):
        assert bool(wrong(digits.network, craft(reference, digits.network, digits.images, labels), labels).all())


def test_a_step_of_a_climb_is_the_one_of_the_formula(linear: Callable[..., Any], gray: Tensor) -> None:
    network, labels = linear(), torch.zeros(len(gray), dtype=torch.int64)
    seen: list[Tensor] = []
    last = climb(
        network,
        Ball(gray, 0.03, "linf"),
        labels,
        gray,
        steps=2,
        step=0.02,
        climbed=log_odds,
        look=lambda points, values, wrong: seen.append(points),
    )
    sign = network.weight.detach().reshape(2, 5, 5).sign()
    assert torch.equal(seen[0], gray)
    assert torch.allclose(seen[1], gray + 0.02 * sign, atol=1e-6)
    assert torch.allclose(last, gray + 0.03 * sign, atol=1e-6)


class Peak(nn.Module):
    """Class 1 is likeliest at one image inside the ball, and never likely enough."""

    top = torch.full((1, 1, 2, 2), 0.53)

    def forward(self, images: Tensor) -> Tensor:
        height = -10 * (images - self.top).flatten(1).square().sum(1) - 1
        return torch.stack([torch.zeros_like(height), height], dim=1)


def test_steps_that_halve_settle_where_fixed_ones_jump_around() -> None:
    images = torch.full((8, 1, 2, 2), 0.5)
    labels, ball = torch.zeros(8, dtype=torch.int64), Ball(images, 0.1, "linf")
    start = ball.random_point(torch.Generator().manual_seed(0))
    settled = auto_climb(Peak(), ball, labels, start, steps=100, climbed=log_odds).points
    jumping = climb(Peak(), ball, labels, start, steps=100, step=0.2, climbed=log_odds)
    assert float((settled - Peak.top).abs().max()) < 1e-3
    assert float((jumping - Peak.top).abs().max()) > 0.05


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 100, 1000])
def test_checkpoints_come_closer_and_closer(steps: int) -> None:
    marks = checkpoints(steps)
    assert marks[0] == 0
    assert marks == sorted(set(marks))
    assert marks[-1] <= steps
    gaps = [later - earlier for earlier, later in pairwise(marks)]
    assert all(later <= earlier + 1 for earlier, later in pairwise(gaps))
    if steps == 1000:
        assert marks == [0, 220, 410, 570, 700, 800, 870, 930, 990]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_are_enough(classes: int, seeded: Seeded) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, classes))
    nn.init.normal_(network[1].weight, generator=seeded(0))
    images = torch.rand(30, 1, 3, 3, generator=seeded(1))
    labels = network(images).argmax(1)
    for reference in ("pgd:loss=both", "apgd:steps=10"):
        joined = "," if ":" in reference else ":"
        assert wrong(network, craft(f"{reference}{joined}epsilon=0.5", network, images, labels), labels).any()


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        ("pdg", UnknownReference, "unknown evasion attack 'pdg'; did you mean 'pgd'.*Known: apgd, fgsm, pgd"),
        ("pgd:eps=1", OptionError, "no parameter 'eps'.*epsilon"),
        (
            "pgd:epsilon=-1",
            OptionError,
            r"pgd:epsilon=-1.0: expected a number in \[0, 1\], as pixels are, such as 8/255",
        ),
        ("pgd:epsilon=8", OptionError, r"pgd:epsilon=8.0: expected a number in \[0, 1\], as pixels are, such as 8/255"),
        ("pgd:epsilon=-1,norm=l2", OptionError, "pgd:epsilon=-1.0: expected a number of 0 or more, such as 8/255"),
        ("pgd:epsilon=inf,norm=l2", OptionError, "pgd:epsilon=inf: expected"),
        ("fgsm:epsilon=inf", OptionError, "fgsm:epsilon=inf: expected"),
        ("fgsm:epsilon=nan", OptionError, "fgsm:epsilon=nan: expected"),
        ("pgd:norm=l1", OptionError, "pgd:norm=l1: expected one of linf, l2"),
        ("pgd:steps=0", OptionError, "pgd:steps=0: expected at least 1"),
        ("pgd:restarts=0", OptionError, "pgd:restarts=0: expected at least 1"),
        ("pgd:step=0", OptionError, "pgd:step=0.0: expected a positive number, or none"),
        ("apgd:targets=-1", OptionError, "apgd:targets=-1: expected 0 or more"),
        ("apgd:steps=0", OptionError, "apgd:steps=0: expected at least 1"),
        ("apgd:restarts=0", OptionError, "apgd:restarts=0: expected at least 1"),
    ],
)
def test_impossible_attacks_are_refused(reference: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_evasion(reference)


@pytest.mark.parametrize("name", EVASIONS.names())
def test_every_attack_is_built_by_its_spec(name: str) -> None:
    attack = EVASIONS.create(name, epsilon=0.25, norm="l2")
    assert parse_evasion(attack.spec) == attack
    assert attack.paper
    assert attack.summary().endswith(".")


def test_a_gradient_that_is_no_number_is_not_taken_for_robustness(digits: Any) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return digits.network(images) + (images - images).sqrt().sum()

    with pytest.raises(ModelError, match="scores or gradients are not finite on 5 of 5 images"):
        craft("pgd", Broken(), digits.images[:5], digits.labels[:5])
