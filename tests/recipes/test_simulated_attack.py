"""Forward mode against differentiating twice, and both against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.models import arch_names, create_network
from modelmoat.models.architectures import get_arch
from modelmoat.recipes._simulated_attack import Divergence, Path, SimulatedAttack, distillation_loss, score_gradient

DIVERGENCES, PATHS = get_args(Divergence), get_args(Path)
CLASSES = 10
LARGER_RELATIVES = ("resnet18", "resnet32", "vgg16_bn", "wrn40_2")  # no other operations than their smaller ones
Measure = Callable[[Tensor], Tensor]


def mean_size(gradient: Tensor) -> Tensor:
    return gradient.abs().mean()


def scene(arch: str, size: int, channels: int, count: int = 6) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A student, images, the victim's scores for them, and labels."""
    draws = torch.Generator().manual_seed(0)
    student = create_network(arch, num_classes=CLASSES, input_shape=(channels, size, size), seed=1).eval()
    images = torch.rand(count, channels, size, size, generator=draws)
    scores = 2 * torch.randn(count, CLASSES, generator=draws)
    return student, images, scores, torch.randint(CLASSES, (count,), generator=draws)


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(dim=1).mean()


def distilled(student: nn.Module, images: Tensor, victim: Tensor, divergence: str, *, graph: bool) -> Tensor:
    """The student's gradient of the divergence, by plain autograd, [P]."""
    p, q = victim.softmax(1), student(images).softmax(1)
    loss = kl(p, q) if divergence == "attacker" else kl(q, p)
    return flat(torch.autograd.grad(loss, list(student.parameters()), create_graph=graph))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_score_gradient_is_that_of_the_divergence(divergence: Divergence) -> None:
    _, _, victim, _ = scene("small_cnn", 8, 1)
    student = victim.flip(0).clone().requires_grad_()
    loss = distillation_loss(victim, student, divergence)
    pair = (victim.softmax(1), student.softmax(1))
    torch.testing.assert_close(loss, kl(*pair) if divergence == "attacker" else kl(*reversed(pair)))
    (expected,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(score_gradient(victim, student.detach(), divergence), expected)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("arch", "size", "channels"), [("lenet", 28, 1), ("resnet20", 32, 3)])
def test_forward_mode_equals_differentiating_twice(arch: str, size: int, channels: int, divergence: Divergence) -> None:
    student, images, victim, labels = scene(arch, size, channels)
    wanted = flat(torch.autograd.grad(F.cross_entropy(student(images), labels), list(student.parameters())))
    victim.requires_grad_()
    attacks = [SimulatedAttack(student, images, victim, divergence=divergence, path=path) for path in PATHS]
    twice = distilled(student, images, victim, divergence, graph=True)

    def alignment(gradient: Tensor) -> Tensor:
        return F.cosine_similarity(gradient, wanted, dim=0)

    measures: list[Measure] = [alignment, mean_size]
    for measure in measures:
        expected = measure(twice)
        (slope,) = torch.autograd.grad(expected, victim, retain_graph=True)
        for attack in attacks:
            found = attack.measured(measure)
            (found_slope,) = torch.autograd.grad(found, victim)
            assert found.item() == pytest.approx(expected.item(), rel=1e-4)
            assert float((found_slope - slope).norm() / slope.norm()) < 1e-5
    torch.testing.assert_close(attacks[0].label_gradient(labels), wanted)
    assert all(parameter.grad is None for parameter in student.parameters())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_forward_mode_agrees_with_differences(divergence: Divergence) -> None:
    student, images, victim, _ = scene("small_cnn", 8, 1, count=3)
    student, images, victim = student.double(), images.double(), victim.double()
    way = torch.randn(victim.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def value(scores: Tensor) -> float:
        return float(distilled(student, images, scores, divergence, graph=False).square().sum())

    def length(gradient: Tensor) -> Tensor:
        return gradient.square().sum()

    victim.requires_grad_()
    term = SimulatedAttack(student, images, victim, divergence=divergence).measured(length)
    (slope,) = torch.autograd.grad(term, victim)
    with torch.no_grad():
        moved = [victim + step * way for step in (1e-5, -1e-5)]
    expected = (value(moved[0]) - value(moved[1])) / 2e-5
    assert float((slope * way).sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("arch", [name for name in arch_names() if name not in LARGER_RELATIVES])
def test_every_architecture_has_a_forward_derivative(arch: str) -> None:
    student, images, victim, _ = scene(arch, get_arch(arch).min_size, 3, count=2)
    victim.requires_grad_()
    slopes = [
        torch.autograd.grad(SimulatedAttack(student, images, victim, path=path).measured(mean_size), victim)[0]
        for path in PATHS
    ]
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 1e-5


class Branches(nn.Module):
    """Convolves the images and their negatives by the same weights, and the images by others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.shared, self.other = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3, bias=False)
        self.deeper, self.head = nn.Conv2d(9, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.shared(x), self.shared(1 - x), self.other(x)]
        return self.head(self.deeper(torch.cat(parts, dim=1).relu()).mean(dim=(2, 3)))


def test_several_convolutions_of_the_images_are_told_apart_and_a_batch_may_be_measured_twice() -> None:
    _, images, victim, _ = scene("small_cnn", 8, 1)
    victim.requires_grad_()
    slopes = []
    for path in PATHS:
        attack = SimulatedAttack(Branches(), images, victim, path=path)
        attack.measured(lambda gradient: gradient.square().sum())
        slopes.append(torch.autograd.grad(attack.measured(mean_size), victim)[0])
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 1e-5
