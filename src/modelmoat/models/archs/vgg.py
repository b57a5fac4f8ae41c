"""VGG with batch norm and one linear head, the form used on CIFAR (Simonyan and Zisserman 2015, arXiv:1409.1556)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.models.architectures import register_arch
from modelmoat.models.network import Network, global_average, init_convolutions

_PAPER = "Simonyan and Zisserman 2015, arXiv:1409.1556"
_WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five stages of 3x3 convolutions with batch norm, each with a 2x2 max-pool, then a global average.

    Images under 32 pixels run out of pixels before the last stages: a map of one pixel is not pooled.

    Args:
        num_classes: K.
        channels: of the images.
        size: side of the images in pixels.
        depths: convolutions in each of the five stages.
    """

    def __init__(self, num_classes: int, channels: int, size: int, *, depths: Sequence[int]) -> None:
        super().__init__()
        stages = []
        inputs = channels
        for depth, width in zip(depths, _WIDTHS, strict=True):
            stages.append(_stage(inputs, width, depth))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.pools = min(len(_WIDTHS), size.bit_length() - 1)
        self.head = nn.Linear(inputs, num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Tensor:
        """Activations [N, 512] before the head."""
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < self.pools:
                x = F.max_pool2d(x, 2)
        return global_average(x)


class ConvNorm(nn.Module):
    """A 3x3 convolution with bias, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Activations [N, outputs, H, W]."""
        return F.relu(self.norm(self.conv(x)))


def _stage(inputs: int, width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(ConvNorm(width if layer else inputs, width) for layer in range(depth)))


@register_arch("vgg11_bn", summary="VGG-11 with batch norm, 9.2M parameters", paper=_PAPER, min_size=8)
def vgg11_bn(num_classes: int, channels: int, size: int) -> Network:
    """VGG-11 (configuration A)."""
    return VGG(num_classes, channels, size, depths=(1, 1, 2, 2, 2))


@register_arch("vgg16_bn", summary="VGG-16 with batch norm, 14.7M parameters", paper=_PAPER, min_size=8)
def vgg16_bn(num_classes: int, channels: int, size: int) -> Network:
    """VGG-16 (configuration D)."""
    return VGG(num_classes, channels, size, depths=(2, 2, 3, 3, 3))
