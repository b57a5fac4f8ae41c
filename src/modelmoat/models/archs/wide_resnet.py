"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.models.architectures import register_arch
from modelmoat.models.network import Network, conv1x1, conv3x3, global_average, init_convolutions

_PAPER = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"


class PreActivationBlock(nn.Module):
    """Norm, ReLU and convolution, twice, around a shortcut that is a 1x1 convolution where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.projection = conv1x1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths, not activated: [N, outputs, H / stride, W / stride]."""
        active = F.relu(self.norm1(x))
        shortcut = x if self.projection is None else self.projection(active)
        y: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return y + shortcut


class WideResNet(Network):
    """WRN-``layers``-``factor``: three stages of (layers - 4) / 6 blocks, 16, 32 and 64 times ``factor`` wide."""

    def __init__(self, num_classes: int, channels: int, *, layers: int, factor: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, 16)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage, width in enumerate((16 * factor, 32 * factor, 64 * factor)):
            for block in range((layers - 4) // 6):
                blocks.append(PreActivationBlock(inputs, width, stride=2 if stage and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Tensor:
        """Activations [N, 64 * factor] before the head."""
        return global_average(F.relu(self.norm(self.blocks(self.conv(x)))))


@register_arch("wrn16_2", summary="wide ResNet WRN-16-2, 0.69M parameters", paper=_PAPER, min_size=8)
def wrn16_2(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """WRN-16-2."""
    return WideResNet(num_classes, channels, layers=16, factor=2)


@register_arch("wrn40_2", summary="wide ResNet WRN-40-2, 2.2M parameters", paper=_PAPER, min_size=8)
def wrn40_2(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """WRN-40-2."""
    return WideResNet(num_classes, channels, layers=40, factor=2)
