"""NumPy archives with arrays of images and labels; nothing in them is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmoat.core.errors import DataError
from modelmoat.data.rows import Rows, Source, checked_labels, files_digest, unreadable

_MAIN_KEYS = (("x_train", "y_train"), ("x", "y"), ("images", "labels"))
_TEST_KEYS = ("x_test", "y_test")
_CHANNEL_COUNTS = (1, 3, 4)
_ROWS_PER_BATCH = 1024


def open_npz(location: str) -> Source:
    """Open an archive with ``x_train, y_train``, ``x, y`` or ``images, labels``, and perhaps ``x_test, y_test``.

    Images are [N, H, W], [N, H, W, C] or [N, C, H, W] with 1, 3 or 4 channels (the last axis is tried first), uint8 or
    floats in [0, 1], which become the nearest of 0 to 255.

    Raises:
        DataError: no such file, pickled objects inside, or arrays of another kind, shape or range.
    """
    path = Path(location).expanduser()
    if not path.is_file():
        raise DataError(f"{path} is not a file; expected a .npz archive; fix: check the path")
    try:
        with zipfile.ZipFile(path):
            pass
        with np.load(path, allow_pickle=False) as archive:
            parts = [_open_part(path, archive, *pair) for pair in _pairs(path, archive.files)]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _refused(path, error) from error
    return Source(*parts)


def _pairs(path: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Names of the arrays of the main set and, where there is one, of the test set."""
    main = next((pair for pair in _MAIN_KEYS if set(pair) <= set(names)), None)
    test = [key for key in _TEST_KEYS if key in names]
    if main is None or len(test) == 1:
        wanted = " or ".join(", ".join(pair) for pair in _MAIN_KEYS)
        raise DataError(
            f"{path} holds {', '.join(names) or 'nothing'}; "
            f"expected {wanted}, and both or none of {', '.join(_TEST_KEYS)}; fix: save with these names"
        )
    return [main, _TEST_KEYS] if test else [main]


def _refused(path: Path, error: Exception) -> DataError:
    if "allow_pickle" in str(error):
        return DataError(
            f"{path} holds pickled objects, which could run any code; expected plain number arrays; "
            "fix: save arrays of one shape and of type uint8, not of type object"
        )
    return unreadable(path, error, expected="a .npz archive written by numpy.savez")


def _open_part(path: Path, archive: Mapping[str, NDArray[Any]], image_key: str, label_key: str) -> Rows:
    def name(row: int) -> str:
        return f"{path} {image_key}[{row}]"

    labels = checked_labels(archive[label_key], lambda row: f"{path} {label_key}[{row}]")
    images = _channels_last(archive[image_key], f"{path} {image_key}")
    if len(images) != len(labels):
        raise DataError(
            f"{path}: {len(images)} images in {image_key}, {len(labels)} labels in {label_key}; "
            "expected one label for each image; fix: check how it was saved"
        )
    if not images.size:
        raise DataError(
            f"{path}: {image_key} has shape {list(images.shape)}; expected at least one image; "
            "fix: check how it was saved"
        )
    _check_values(images, name)

    def batches() -> Iterator[Sequence[NDArray[np.uint8]]]:
        for start in range(0, len(images), _ROWS_PER_BATCH):
            block = images[start : start + _ROWS_PER_BATCH]
            yield list(
                np.ascontiguousarray(block if block.dtype == np.uint8 else np.rint(block * 255).astype(np.uint8))
            )

    return Rows(labels, None, batches, name, lambda: f"{image_key} {files_digest([path])}")


def _channels_last(images: NDArray[Any], where: str) -> NDArray[Any]:
    """Images as [N, H, W] or [N, H, W, C] with 3 or 4 channels."""
    if images.ndim == 4 and images.shape[3] not in _CHANNEL_COUNTS and images.shape[1] in _CHANNEL_COUNTS:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 3:
        return images
    if images.ndim == 4 and images.shape[3] in _CHANNEL_COUNTS:
        return images[..., 0] if images.shape[3] == 1 else images
    raise DataError(
        f"{where} has shape {list(images.shape)}; expected [N, H, W], or [N, H, W, C] or [N, C, H, W] with 1, 3 or 4 "
        "channels; fix: reshape before saving"
    )


def _check_values(images: NDArray[Any], name: Callable[[int], str]) -> None:
    if images.dtype == np.uint8:
        return
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(
            f"{name(0)} is {images.dtype}; expected uint8, or floats from 0 to 1; fix: save images.astype('uint8')"
        )
    for start in range(0, len(images), _ROWS_PER_BATCH):
        block = images[start : start + _ROWS_PER_BATCH]
        block = block.reshape(len(block), -1)
        bad = ~((block >= 0) & (block <= 1))
        if bad.any():
            row, position = (int(index) for index in np.argwhere(bad)[0])
            raise DataError(
                f"{name(start + row)} holds {block[row, position]}; expected floats from 0 to 1; "
                "fix: scale them to [0, 1], or save uint8"
            )
