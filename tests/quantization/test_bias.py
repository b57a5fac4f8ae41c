from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modelmoat.quantization import Simulated
from modelmoat.training import TensorImages

Simulate = Callable[..., Simulated]


class OneLayer(nn.Module):
    """A convolution, averaged over pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@torch.no_grad()
def test_outputs_keep_their_mean_though_weights_are_coarse(simulate: Simulate, pixels: Tensor) -> None:
    network = OneLayer()
    simulated = simulate(network, weights=2)

    def shift() -> float:
        return float((simulated.features(pixels) - network.features(pixels)).mean(dim=0).abs().max())

    before = shift()
    simulated.correct_biases(TensorImages(pixels), list(torch.arange(40).split(16)))
    assert before > 0.05
    assert shift() < 0.01, "what is left is the rounding of activations"


@torch.no_grad()
def test_a_deeper_network_gets_nearer_to_its_original(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    simulated, exact = simulate(toy, weights=4), toy(pixels)
    before = float((simulated(pixels) - exact).square().mean())
    simulated.correct_biases(TensorImages(pixels), list(torch.arange(40).split(16)))
    assert float((simulated(pixels) - exact).square().mean()) < before
