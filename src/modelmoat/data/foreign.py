"""Images unlike the victim's own: another data set in the victim's shape, or noise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.core.errors import DataError, require
from modelmoat.core.seeds import generator
from modelmoat.data.images import ImageSet, overlap
from modelmoat.data.loading import load

NOISE = "noise"
PATCHES = "photo-patches"


def check_foreign(option: str, reference: str) -> None:
    """Raise `OptionError` for a reference with options; ``option`` names who gave it, such as ``edm:ood``."""
    require(
        "," not in reference,
        f"{option}={reference}: expected a data reference without options, since size and color follow the victim",
    )


def load_foreign(reference: str, shape: tuple[int, int, int], *, most: int, seed: int, owner: str) -> ImageSet:
    """Images of a reference in the victim's shape, at most ``most`` of them.

    Args:
        reference: data reference without options, or ``noise``: smoothed random pixels, all of one class.
        shape: channels, height and width of the victim's images.
        most: how many images at most; so many patches or noise images are made.
        seed: of the draw.
        owner: method that asks, for messages and for draws of its own.

    Raises:
        OptionError: images of neither 1 nor 3 channels.
        UnknownReference, DataError: as loading does.
    """
    if reference == NOISE:
        pixels = noise_images(most, shape, generator(seed, owner, NOISE))
        return ImageSet(pixels, torch.zeros(most, dtype=torch.int64), (NOISE,), NOISE)
    images = load(foreign_reference(reference, shape, most=most, owner=owner), seed=seed)
    if len(images) <= most:
        return images
    return images.take(torch.randperm(len(images), generator=generator(seed, owner, reference))[:most])


def foreign_reference(reference: str, shape: tuple[int, int, int], *, most: int, owner: str) -> str:
    """What `load_foreign` draws from, in the victim's shape; raises `OptionError` for images of neither 1 nor 3 channels.

    >>> foreign_reference("digits", (3, 32, 32), most=5000, owner="edm")
    'digits,size=32,rgb'
    """
    if reference == NOISE:
        return NOISE
    colors = {1: "grey", 3: "rgb"}
    require(
        shape[0] in colors,
        f"{owner}: the victim takes images of {shape[0]} channels; expected 1 or 3, which data references can give",
    )
    enough = f",n={most},test=0" if reference == PATCHES else ""  # they are cut on demand
    return f"{reference},size={shape[1]},{colors[shape[0]]}{enough}"


def refuse_overlap(option: str, foreign: ImageSet, owned: Iterable[ImageSet]) -> None:
    """Raise `DataError` where foreign images are the victim's own; ``option`` names them, such as ``edm:ood=digits``."""
    for images in owned:
        shared = int(overlap(foreign, images).sum())
        if shared:
            raise DataError(
                f"{option}: {shared:,} of its {len(foreign):,} images are also in '{images.reference}'; "
                "expected none, as the victim would learn to be wrong on them; fix: name another data set, or noise"
            )


def noise_images(count: int, shape: tuple[int, int, int], draws: torch.Generator) -> Tensor:
    """Random images of coarse to fine grain, uint8 [count, C, H, W]."""
    channels, height, width = shape
    grains = [max(1, height // coarse) for coarse in (8, 4, 2, 1)]
    parts = []
    for number, grain in enumerate(grains):
        share = count // len(grains) + (number < count % len(grains))
        pixels = torch.rand(share, channels, grain, grain, generator=draws)
        parts.append(F.interpolate(pixels, size=(height, width), mode="bilinear") if share else pixels)
    return torch.cat([part.reshape(-1, *shape) for part in parts]).mul(255).to(torch.uint8)
