"""LeNet-5 (LeCun et al. 1998, doi:10.1109/5.726791), with ReLU and max-pooling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.models.architectures import register_arch
from modelmoat.models.network import Network, init_convolutions


class LeNet(Network):
    """Two 5x5 convolutions of 6 and 16 channels, each with a 2x2 max-pool, then layers of 120, 84 and K units."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        side = (size // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Tensor:
        """Activations [N, 84] before the head."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # the same as pooling after ReLU, on a quarter of the numbers
        x = F.relu(F.max_pool2d(self.conv2(x), 2)).flatten(1)
        return F.relu(self.fc2(F.relu(self.fc1(x))))


@register_arch(
    "lenet",
    summary="LeNet-5 with ReLU and max-pooling, 62k parameters at 28x28x1",
    paper="LeCun et al. 1998, doi:10.1109/5.726791",
    min_size=12,
)
def lenet(num_classes: int, channels: int, size: int) -> Network:
    """LeNet-5."""
    return LeNet(num_classes, channels, size)
