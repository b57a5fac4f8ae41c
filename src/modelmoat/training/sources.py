"""Where batches of images come from: a tensor in memory, or anything that hands out rows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Images(Protocol):
    """Rows of images, uint8 in [0, 255] or float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Tensor:
        """Rows at ``indices``, shape [B, C, H, W]."""
        ...


class TensorImages:
    """Images in one tensor of shape [N, C, H, W], indexed on the device where it lives."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def batch(self, indices: Tensor) -> Tensor:
        """Rows at ``indices``, shape [B, C, H, W]."""
        return self.tensor[indices.to(self.tensor.device)]


def as_images(images: Tensor | Images) -> Images:
    """Accept a tensor where rows of images are expected."""
    return TensorImages(images) if isinstance(images, Tensor) else images


def as_float(batch: Tensor) -> Tensor:
    """Turn uint8 pixels into float32 in [0, 1]; float images pass through.

    >>> as_float(torch.tensor([255], dtype=torch.uint8))
    tensor([1.])
    """
    return batch.to(torch.float32).div_(255) if batch.dtype == torch.uint8 else batch
