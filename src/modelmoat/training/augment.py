"""Random crops and flips of a whole batch in one gather."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.training.settings import Augment

PADDING_SHARE = 8  # a crop may move by an eighth of the side: 4 pixels of 32


def resolve_augment(choice: Augment, channels: int, size: int) -> Augment:
    """Turn ``auto`` into crops and flips for color images of 24 pixels and more, and into none for the rest.

    Flipped digits and letters are other signs, and flipped color photographs show the same thing.
    """
    if choice != "auto":
        return choice
    return "crop_flip" if channels == 3 and size >= 24 else "none"


def augment_batch(batch: Tensor, kind: Augment, generator: torch.Generator) -> Tensor:
    """Crop each image at a random offset after zero padding, and mirror half of them.

    Args:
        batch: [B, C, H, W], any dtype.
        kind: ``none``, ``crop`` or ``crop_flip``.
        generator: source of the offsets, on the CPU.

    Returns:
        [B, C, H, W] in channels-last memory order (the given batch for ``none``).
    """
    if kind == "none":
        return batch
    count, _, height, width = batch.shape
    pad = max(1, height // PADDING_SHARE)
    offsets = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.arange(width)
    if kind == "crop_flip":
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    device = batch.device
    padded = F.pad(batch, (pad, pad, pad, pad)).permute(0, 2, 3, 1).contiguous()
    each = torch.arange(count, device=device)[:, None, None]
    picked = padded[each, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return picked.permute(0, 3, 1, 2)
