"""What every architecture is: features and a linear head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Network(nn.Module):
    """Logits [N, K] = head(features(x)), for normalized float images x [N, C, H, W] and features [N, F]."""

    head: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [N, F] of normalized images [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Classifier(nn.Module):
    """A network that takes images as they are: logits [N, K] of float images [N, C, H, W] in [0, 1].

    Args:
        body: the network, which sees ``(image - mean) / std``.
        arch: registered name of the architecture.
        input_shape: channels, height and width.
        mean: one value per channel.
        std: one value per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: Network,
        *,
        arch: str,
        input_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.arch = arch
        self.input_shape = input_shape
        self.body = body
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.body.head.out_features

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, from features [N, F] to logits [N, K]."""
        return self.body.head

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations [N, F] of images [N, C, H, W] in [0, 1]."""
        return self.body.features((images - self.mean) / self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of images [N, C, H, W] in [0, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (at stride 1) and has no bias, as batch norm follows or precedes it."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def global_average(x: Tensor) -> Tensor:
    """Mean over the map: [N, F, H, W] to [N, F]."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def init_convolutions(network: nn.Module) -> None:
    """Draw all convolutions from N(0, 2 / fan_out) and zero their biases (He et al. 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
