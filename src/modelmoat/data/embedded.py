"""Sets that come with scikit-learn, so that everything can be tried offline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelmoat.core.errors import OptionError, require
from modelmoat.core.seeds import generator
from modelmoat.data.rows import Rows, Source, checked_labels

if TYPE_CHECKING:
    from PIL.Image import Image

PATCH_COUNT = 5000
PATCH_SIDE = 32
_LARGEST_ZOOM = 4
_TRIES_PER_PATCH = 10


def open_digits() -> Source:
    """1,797 handwritten digits of scikit-learn, 8x8 grey; its values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    names = tuple(map(str, bunch.target_names))
    return Source(_pixel_rows("digits", list(images), bunch.target, names, "digits"))


def open_photo_patches(*, size: int | None = None, count: int | None = None, grey: bool = False) -> Source:
    """Distinct random square crops of scikit-learn's two photos; the label says which photo.

    Sides of crops are log-uniform from ``size`` to four times ``size`` pixels; each crop is resized to ``size``. The
    crops are the same for every seed: they are a data set, only its splits are drawn.

    Raises:
        OptionError: crops larger than a photo, or more crops than can differ.
    """
    side, wanted = size or PATCH_SIDE, count or PATCH_COUNT
    names, photos = _photos(grey)
    smallest = min(min(photo.size) for photo in photos)
    require(
        side <= smallest,
        f"size={side}: photo-patches are cut from photos of {smallest} pixels; fix: size={smallest} or less",
    )
    patches = _distinct_patches(photos, side, wanted)
    labels = np.arange(wanted) % len(photos)
    return Source(_pixel_rows("photo-patches", patches, labels, names, f"photo-patches/{side}/{wanted}/{grey}"))


def _photos(grey: bool) -> tuple[tuple[str, ...], list[Image]]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    names = tuple(str(name).rsplit(".", 1)[0].replace("\\", "/").rsplit("/", 1)[-1] for name in bunch.filenames)
    return names, [Image.fromarray(photo).convert("L" if grey else "RGB") for photo in bunch.images]


def _distinct_patches(photos: Sequence[Image], side: int, wanted: int) -> list[NDArray[np.uint8]]:
    draws = torch.rand(
        wanted * _TRIES_PER_PATCH, 3, generator=generator(0, "data", "photo-patches"), dtype=torch.float64
    )
    seen: set[bytes] = set()
    patches: list[NDArray[np.uint8]] = []
    for zoom, across, down in draws.tolist():
        patch = _patch(photos[len(patches) % len(photos)], side, zoom, across, down)
        key = hashlib.blake2b(patch.tobytes(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            patches.append(patch)
        if len(patches) == wanted:
            return patches
    raise OptionError(
        f"n={wanted}: only {len(patches)} patches of size={side} differ; fix: a smaller n or a larger size"
    )


def _patch(photo: Image, side: int, zoom: float, across: float, down: float) -> NDArray[np.uint8]:
    """One square crop; all three draws lie in [0, 1)."""
    from PIL.Image import Resampling

    largest = min(side * _LARGEST_ZOOM, *photo.size)
    crop = int(side * (largest / side) ** zoom)
    left, top = math.floor(across * (photo.width - crop + 1)), math.floor(down * (photo.height - crop + 1))
    return np.asarray(photo.resize((side, side), Resampling.BILINEAR, box=(left, top, left + crop, top + crop)))


def _pixel_rows(
    source: str, images: Sequence[NDArray[np.uint8]], labels: NDArray[Any], names: tuple[str, ...], fingerprint: str
) -> Rows:
    def batches() -> Iterator[Sequence[NDArray[np.uint8]]]:
        yield images

    def name(row: int) -> str:
        return f"{source} row {row}"

    return Rows(checked_labels(labels, name), names, batches, name, lambda: fingerprint)
