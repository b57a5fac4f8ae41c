"""Residual networks in their CIFAR forms (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.models.architectures import register_arch
from modelmoat.models.network import Network, conv1x1, conv3x3, global_average, init_convolutions

_PAPER = "He et al. 2016, arXiv:1512.03385"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: [N, inputs, H, W] to [N, outputs, H / stride, W / stride].

    Where the shape changes, the shortcut is a 1x1 convolution with batch norm (``projection``, option B of section
    3.3), or else every second pixel with the new channels zero (option A, which has no parameters).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, projection: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs
        self.projection: nn.Module | None = None
        if projection and (stride > 1 or self.new_channels):
            self.projection = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of both paths."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            projected: Tensor = self.projection(x)
            return projected
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return x


class ResNet(Network):
    """A 3x3 stem without max-pool, one stage per width (each after the first halves the map), a global average.

    Args:
        num_classes: K.
        channels: of the images.
        widths: channels of each stage.
        depth: blocks in each stage.
        projection: option B shortcuts rather than option A.
    """

    def __init__(self, num_classes: int, channels: int, *, widths: Sequence[int], depth: int, projection: bool) -> None:
        super().__init__()
        self.conv = conv3x3(channels, widths[0])
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(BasicBlock(inputs, width, stride, projection=projection))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Tensor:
        """Activations [N, last width] before the head."""
        return global_average(self.blocks(F.relu(self.norm(self.conv(x)))))


def _cifar_resnet(num_classes: int, channels: int, depth: int) -> Network:
    return ResNet(num_classes, channels, widths=(16, 32, 64), depth=depth, projection=False)


@register_arch("resnet8", summary="CIFAR ResNet of 8 layers, 75k parameters", paper=_PAPER, min_size=8)
def resnet8(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """ResNet-8 (6n + 2 layers, n = 1)."""
    return _cifar_resnet(num_classes, channels, depth=1)


@register_arch("resnet20", summary="CIFAR ResNet of 20 layers, 270k parameters", paper=_PAPER, min_size=8)
def resnet20(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """ResNet-20 (6n + 2 layers, n = 3)."""
    return _cifar_resnet(num_classes, channels, depth=3)


@register_arch("resnet32", summary="CIFAR ResNet of 32 layers, 464k parameters", paper=_PAPER, min_size=8)
def resnet32(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """ResNet-32 (6n + 2 layers, n = 5)."""
    return _cifar_resnet(num_classes, channels, depth=5)


@register_arch("resnet18", summary="ResNet-18 with a 3x3 stem, 11.2M parameters", paper=_PAPER, min_size=8)
def resnet18(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """ResNet-18 for small images: no 7x7 stem and no max-pool."""
    return ResNet(num_classes, channels, widths=(64, 128, 256, 512), depth=2, projection=True)
