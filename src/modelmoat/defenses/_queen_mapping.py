"""QUEEN's mapping network: victim features into a plane where the classes gather."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from modelmoat.core.seeds import derive
from modelmoat.training import FitSettings, fit

TEMPERATURE = 0.07
PLANE = 2
_TINY = 1e-12
Shape = Literal["disc", "circle", "raw"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class MappingSettings:
    """How the mapping network is built and trained; lasts ``epochs`` epochs or ``steps`` steps, whichever is longer."""

    shape: Shape
    divisor: int
    optimizer: Optimizer
    lr: float
    epochs: int
    steps: int
    batch_size: int

    @property
    def fit(self) -> FitSettings:
        """Published: SGD, momentum 0.9, constant rate. AdamW falls along a cosine instead. Weight decay 1e-4 in both."""
        sgd = self.optimizer == "sgd"
        return FitSettings(
            epochs=self.epochs,
            min_steps=self.steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=0.9,
            nesterov=False,
            weight_decay=1e-4,
            schedule="constant" if sgd else "cosine",
            warmup=0.0 if sgd else 0.1,
            augment="none",
            precision="float32",
        )


def widths(features: int, divisor: int) -> list[int]:
    """Layer widths from the features to the plane.

    Every layer divides the width by ``divisor``, and the last one ends in the plane; a layer that would leave fewer than
    2 ``divisor`` units is left out, so that victims with few features do not go through a bottleneck. The published
    widths (512 and 2048 features) come out as they are.

    >>> widths(512, 4), widths(2048, 4)
    ([512, 128, 32, 8, 2], [2048, 512, 128, 32, 8, 2])
    >>> widths(512, 2), widths(64, 4)
    ([512, 256, 128, 64, 32, 16, 8, 4, 2], [64, 16, 2])
    """
    chain = [features]
    while chain[-1] // divisor >= PLANE * divisor:
        chain.append(chain[-1] // divisor)
    return [*chain, PLANE]


class MappingNetwork(nn.Module):
    """M: features [N, D] -> points u of the plane [N, 2].

    A perceptron with batch normalization and ReLU between its layers gives v, and then

    - ``disc``: u = v / (1 + |v|), within the unit disc;
    - ``circle``: u = v / |v|, on the unit circle;
    - ``raw``: u = v.

    The published code shows the widths and that its loss normalizes nothing; the rest is inferred. On the circle,
    records lie on a line and cover hardly any of the area that QUEEN counts: at r = 0.05 rho, full coverage brings a
    counter to 0.04, far from its threshold of 0.2. Hence the disc.
    """

    def __init__(self, features: int, divisor: int, shape: Shape) -> None:
        super().__init__()
        chain = widths(features, divisor)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(chain[:-1]):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(chain[-2], chain[-1]))
        self.shape = shape

    def forward(self, features: Tensor) -> Tensor:
        """Points [N, 2] of features [N, D], or of [N, D, 1, 1] as the fit loop hands them out."""
        points: Tensor = self.layers(features.flatten(1))
        if self.shape == "raw":
            return points
        length = points.norm(dim=1, keepdim=True)
        scale: Tensor = length.clamp_min(_TINY) if self.shape == "circle" else 1 + length
        return points / scale


def contrastive_loss(points: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020; one view) of points [N, 2] with labels [N], a scalar.

    L = -1/n sum_i 1/|P(i)| sum_{j in P(i)} [s_ij - log sum_{a != i} exp s_ia], s_ij = <u_i, u_j> / T, where P(i) are the
    other rows with the label of i. Rows without such others do not count; a batch without any has a loss of zero.
    """
    alone = torch.eye(len(points), dtype=torch.bool, device=points.device)
    scores = (points @ points.T / temperature).masked_fill(alone, -torch.inf)
    log_shares = scores.log_softmax(dim=1).masked_fill(alone, 0.0)
    positive = (labels[:, None] == labels) & ~alone
    count = positive.sum(dim=1)
    means = (log_shares * positive).sum(dim=1) / count.clamp_min(1)
    return -means.sum() / (count > 0).sum().clamp_min(1)


def create_mapping(features: int, settings: MappingSettings, *, seed: int) -> MappingNetwork:
    """An untrained mapping network; the same seed gives the same weights and no global RNG moves."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derive(seed, "queen", "mapping", "weights"))
        return MappingNetwork(features, settings.divisor, settings.shape)


def train_mapping(
    features: Tensor, labels: Tensor, settings: MappingSettings, *, seed: int, device: str
) -> MappingNetwork:
    """A mapping network trained on features [N, D] with labels [N]; raises `TrainingDiverged`."""
    network = create_mapping(features.shape[1], settings, seed=seed)

    def objective(module: nn.Module, batch: Tensor, targets: Tensor) -> Tensor:
        return contrastive_loss(module(batch), targets)

    pixels = features[:, :, None, None]  # one pixel with D channels: what the fit loop takes
    fit(
        network,
        pixels,
        labels,
        settings.fit,
        seed=derive(seed, "queen", "mapping"),
        device=device,
        objective=objective,
    )
    return network
