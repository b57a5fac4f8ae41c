"""Images with labels, as one uint8 tensor that lies in memory or in a mapped file.

A set that fits in memory owns its tensor, and `ImageSet.take` copies the rows it takes. A set that was decoded to a
file keeps the whole mapped tensor and an index of its rows, so that splitting it copies nothing; `ImageSet.batch` then
reads from disk only the rows it is asked for. Both kinds give the same pixels and the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelmoat.core.errors import DataError

_ROWS_PER_CHUNK = 4096
_HASH_BYTES = 16


class ImageSet:
    """Labeled images of one shape; never changed after it was made.

    Args:
        images: uint8 [M, C, H, W], pixel values 0 to 255.
        labels: int64 [N], each from 0 to the number of classes minus 1.
        class_names: name of each class.
        reference: the text that loads this set again.
        rows: int64 [N], rows of ``images`` that belong to the set; all of them (N = M) when None.
        mapped: whether ``images`` is backed by a file, so that it should be read in batches.

    Raises:
        DataError: tensors of another type or shape, or a label without a class.

    >>> images = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"), "example")
    >>> images
    ImageSet('example', 2 images of 1x8x8, 2 classes)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        reference: str,
        *,
        rows: Tensor | None = None,
        mapped: bool = False,
    ) -> None:
        self._whole = images
        self._rows = rows
        self.labels = labels
        self.class_names = tuple(class_names)
        self.reference = reference
        self.mapped = mapped
        self._check()

    @property
    def images(self) -> Tensor:
        """All pixels, uint8 [N, C, H, W]; for rows of a mapped set this reads them all into memory."""
        return self._whole if self._rows is None else self._whole[self._rows]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self._whole.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """How many classes there are, seen or not."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Tensor:
        """Pixels of some images, uint8 [B, C, H, W], for int64 indices [B]."""
        return self._whole[indices if self._rows is None else self._rows[indices]]

    def take(self, indices: Tensor, *, reference: str | None = None) -> ImageSet:
        """The set of some images, for int64 indices [B]; copies pixels only when they lie in memory."""
        name = self.reference if reference is None else reference
        if not self.mapped:
            return ImageSet(self.batch(indices), self.labels[indices], self.class_names, name)
        rows = indices if self._rows is None else self._rows[indices]
        return ImageSet(self._whole, self.labels[indices], self.class_names, name, rows=rows, mapped=True)

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of shape, images and labels."""
        sha = hashlib.sha256(f"uint8 {len(self)} {self.shape}".encode())
        for chunk in self._chunks():
            sha.update(chunk.data)
        sha.update(self.labels.numpy().astype("<i8").data)
        return sha.hexdigest()[:16]

    def row_hashes(self) -> NDArray[np.bytes_]:
        """BLAKE2b of the pixels of each image, 16 bytes each, [N]."""
        return self._row_hashes

    @cached_property
    def _row_hashes(self) -> NDArray[np.bytes_]:
        digests = [
            hashlib.blake2b(row.data, digest_size=_HASH_BYTES).digest()
            for chunk in self._chunks()
            for row in chunk.reshape(len(chunk), -1)
        ]
        return np.array(digests, dtype=f"S{_HASH_BYTES}")

    def _chunks(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(self), _ROWS_PER_CHUNK):
            stop = min(start + _ROWS_PER_CHUNK, len(self))
            chunk = self._whole[start:stop] if self._rows is None else self._whole[self._rows[start:stop]]
            yield chunk.contiguous().numpy()

    def _check(self) -> None:
        if self._whole.dtype != torch.uint8 or self._whole.dim() != 4:
            raise DataError(
                f"images are {_described(self._whole)}; expected uint8 [N, C, H, W]; "
                "fix: convert with .to(torch.uint8) and reshape"
            )
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise DataError(
                f"labels are {_described(self.labels)}; expected int64 [N]; fix: convert with .to(torch.int64)"
            )
        count = len(self._whole) if self._rows is None else len(self._rows)
        if len(self.labels) != count:
            raise DataError(
                f"{len(self.labels)} labels for {count} images; expected one for each; fix: check where they were cut"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise DataError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}; "
                f"expected 0 to {self.num_classes - 1} for {self.num_classes} class names; "
                "fix: number the classes from 0 and name each of them"
            )

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"ImageSet({self.reference!r}, {len(self)} images of {size}, {self.num_classes} classes)"


def overlap(a: ImageSet, b: ImageSet) -> Tensor:
    """Which rows of ``a`` have the pixels of some row of ``b``, bool [len(a)].

    Raises:
        DataError: the shapes differ, so that no comparison means anything.
    """
    if a.shape != b.shape:
        raise DataError(
            f"cannot compare images of {a.shape} ('{a.reference}') with images of {b.shape} ('{b.reference}'); "
            "fix: load both with the same size= and the same of grey or rgb"
        )
    return torch.from_numpy(np.isin(a.row_hashes(), b.row_hashes()))


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
