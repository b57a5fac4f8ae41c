"""Mean and spread of pixels, for normalization."""

from __future__ import annotations

import torch

from modelmoat.training.sources import Images, as_float

_SAMPLE = 10_000


def pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1].

    Sets of more than 10,000 images are measured on 10,000 of them, evenly spaced.
    """
    count = min(len(images), _SAMPLE)
    rows = torch.arange(count) * len(images) // count
    pixels = as_float(images.batch(rows)).double()
    mean = pixels.mean(dim=(0, 2, 3))
    std = pixels.std(dim=(0, 2, 3), correction=0).clamp_min(1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())
