"""What every reader gives: labeled pictures that are not decoded yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelmoat.core.errors import DataError

LARGEST_LABEL = 99_999

Picture: TypeAlias = bytes | Path | NDArray[np.uint8]
"""An encoded image, the file that holds one, or pixels as uint8 [H, W] or [H, W, C]."""


@dataclass(frozen=True)
class Rows:
    """Pictures of one file or folder, with their labels.

    Attributes:
        labels: int64 [N].
        class_names: names in the order of the labels, or None where the source has none.
        batches: starts reading from the first row; yields a few pictures at a time.
        name: says where a row came from, for messages.
        fingerprint: hashes all that determines the pixels; may read whole files.
    """

    labels: Tensor
    class_names: tuple[str, ...] | None
    batches: Callable[[], Iterator[Sequence[Picture]]]
    name: Callable[[int], str]
    fingerprint: Callable[[], str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """What a reference names: a main set and, where one was published with it, a test set."""

    main: Rows
    test: Rows | None = None

    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, or their numbers; raises `DataError` when labels or sets do not fit the names."""
        parts = [part for part in (self.main, self.test) if part is not None]
        named = [part for part in parts if part.class_names is not None]
        highest = max(int(part.labels.max()) for part in parts)
        if not named or named[0].class_names is None:
            return tuple(map(str, range(highest + 1)))
        names = named[0].class_names
        if any(part.class_names != names for part in named):
            raise DataError(
                f"{self.main.name(0)} and the test set name different classes; expected the same names; "
                "fix: write both with one list"
            )
        for part in parts:
            _check_named(part, len(names))
        return names


def checked_labels(values: NDArray[Any], name: Callable[[int], str]) -> Tensor:
    """Labels as int64 [N].

    Raises:
        DataError: not one whole number from 0 to 99,999 for each image.
    """
    if values.ndim != 1:
        raise DataError(
            f"{name(0)}: labels have shape {list(values.shape)}; expected [N]; "
            "fix: store one class number for each image"
        )
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"{name(0)}: labels are {values.dtype}; expected whole numbers; fix: store class numbers counted from 0"
        )
    outside = np.flatnonzero((values < 0) | (values > LARGEST_LABEL))
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"{name(row)}: label {values[row]}; expected 0 to {LARGEST_LABEL}; "
            "fix: number the classes from 0 and drop unlabeled rows"
        )
    return torch.from_numpy(values.astype(np.int64))


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the content of files in their order."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise unreadable(path, error) from error
    return whole.hexdigest()


def unreadable(path: Path, error: Exception, *, expected: str = "a readable file") -> DataError:
    """The error for a file that cannot be read as what it should be."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return DataError(
        f"cannot read {path}: {reason[0]}; expected {expected}; fix: check the path, or fetch the file again"
    )


def _check_named(part: Rows, count: int) -> None:
    beyond = torch.nonzero(part.labels >= count).flatten()
    if len(beyond):
        row = int(beyond[0])
        raise DataError(
            f"{part.name(row)}: label {int(part.labels[row])} with {count} class names; expected 0 to {count - 1}; "
            "fix: name every class, or correct the label"
        )
