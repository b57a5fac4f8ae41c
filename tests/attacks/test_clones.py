from __future__ import annotations

import torch

from modelmoat.attacks.clones import CloneCache
from modelmoat.models import Classifier, create_network
from modelmoat.training import FitResult, TensorImages

SHAPE = (1, 8, 8)


class Maker:
    """Makes a new network each time and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> tuple[Classifier, FitResult]:
        self.made += 1
        return create_network("small_cnn", num_classes=3, input_shape=SHAPE, seed=self.made), FitResult(7, 1, "float32")


def images(seed: int = 0, count: int = 5) -> TensorImages:
    return TensorImages(torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)))


def weights(network: Classifier) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.parameters()])


def test_the_same_transfer_set_gives_the_same_clone_once() -> None:
    cache, maker = CloneCache(), Maker()
    targets = torch.tensor([0, 1, 2, 1, 0])
    first = cache.get({"seed": 0}, images(), targets, maker)
    again = cache.get({"seed": 0}, images(), targets.clone(), maker)
    assert maker.made == 1
    assert first.spared == 0 < again.spared
    assert again.result == first.result
    assert torch.equal(weights(first.clone), weights(again.clone))
    with torch.no_grad():
        again.clone.head.weight.zero_()  # what one attacker does with its clone is no concern of the next
    assert torch.equal(weights(cache.get({"seed": 0}, images(), targets, maker).clone), weights(first.clone))


def test_anything_else_is_trained_anew() -> None:
    cache, maker = CloneCache(), Maker()
    targets = torch.tensor([0, 1, 2, 1, 0])
    soft = torch.eye(3)[targets]
    for setting, shown, learned in (
        ({"seed": 0}, images(), targets),
        ({"seed": 1}, images(), targets),
        ({"seed": 0}, images(seed=1), targets),
        ({"seed": 0}, images(), targets.roll(1)),
        ({"seed": 0}, images(), soft),
    ):
        cache.get(setting, shown, learned, maker)
    assert maker.made == 5


def test_the_oldest_clone_is_forgotten_first() -> None:
    cache, maker = CloneCache(most=2), Maker()
    targets = torch.tensor([0, 1, 2, 1, 0])
    for seed in (0, 1, 0, 2, 0):
        cache.get({"seed": seed}, images(), targets, maker)
    assert maker.made == 3
    cache.get({"seed": 1}, images(), targets, maker)
    assert maker.made == 4
