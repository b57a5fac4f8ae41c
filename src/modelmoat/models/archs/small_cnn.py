"""A small convolutional network for images of any size from 8x8 up, quick on a CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.models.architectures import register_arch
from modelmoat.models.network import Network, conv3x3, global_average, init_convolutions

_WIDTHS = (32, 64, 64)


class SmallCNN(Network):
    """Three 3x3 convolutions of 32, 64 and 64 channels with batch norm, 2x2 max-pools between, a global average."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        inputs = (channels, *_WIDTHS[:-1])
        self.convs = nn.ModuleList(conv3x3(a, b) for a, b in zip(inputs, _WIDTHS, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in _WIDTHS)
        self.head = nn.Linear(_WIDTHS[-1], num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Tensor:
        """Activations [N, 64] before the head."""
        for stage, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.max_pool2d(x, 2) if stage else x
            x = F.relu(norm(conv(x)))
        return global_average(x)


@register_arch(
    "small_cnn",
    summary="three convolutions with batch norm, 56k parameters, for images from 8x8 up",
    paper="none: the house's default for small images",
    min_size=8,
)
def small_cnn(num_classes: int, channels: int, size: int) -> Network:  # noqa: ARG001 - any size fits
    """The small convolutional network."""
    return SmallCNN(num_classes, channels)
