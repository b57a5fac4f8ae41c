from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from modelmoat.models import create_network


@pytest.fixture
def make_network() -> Callable[[], nn.Module]:
    """The same untrained network for 3x8x8 images and four classes, every time."""
    return lambda: create_network("small_cnn", num_classes=4, input_shape=(3, 8, 8), seed=0)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (41, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, 4, (41,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Let no file of this process grow past a size: a write that crosses it is cut short by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
