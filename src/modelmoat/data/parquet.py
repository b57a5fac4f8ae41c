"""Parquet files in the layout of Hugging Face data sets: an image column of encoded bytes and a label column."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelmoat.core.errors import DataError, nearest
from modelmoat.data.rows import Rows, Source, checked_labels, files_digest, unreadable

_ROWS_PER_BATCH = 1024
_METADATA_KEY = b"huggingface"
_SPLIT_WORDS: dict[str, Literal["train", "test", "validation"]] = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}


def open_parquet(location: str, *, image: str = "image", label: str = "label") -> Source:
    """Open a Parquet file, or a folder of them.

    Raises:
        DataError: nothing there, a file that is not Parquet, or a missing or unusable column.
    """
    path = Path(location).expanduser()
    if path.is_file():
        return Source(_open_files([path], image, label))
    if not path.is_dir():
        raise DataError(
            f"{path} does not exist; expected a folder with train.parquet, or a .parquet file; fix: check the path"
        )
    found = {str(file.relative_to(path)): file for file in sorted(path.rglob("*.parquet"))}
    if not found:
        raise DataError(
            f"{path} holds no .parquet file; expected train.parquet and perhaps test.parquet; fix: check the path"
        )
    return open_files(found, image=image, label=label)


def open_files(files: Mapping[str, Path], *, image: str = "image", label: str = "label") -> Source:
    """Open files that are sorted into main and test set by `grouped`; ``files`` maps the published name to the file."""
    main, test = grouped(list(files))
    return Source(
        _open_files([files[name] for name in main], image, label),
        _open_files([files[name] for name in test], image, label) if test else None,
    )


def grouped(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of main and test files.

    Main are the files named after ``train``, else those named after no split, else all. Test are the files named after
    ``test``, else, beside train files, those named after ``validation``. Other files are left out.

    >>> grouped(["data/train-00000-of-00001.parquet", "data/valid-00000-of-00001.parquet"])
    (['data/train-00000-of-00001.parquet'], ['data/valid-00000-of-00001.parquet'])
    >>> grouped(["a.parquet", "b.parquet"])
    (['a.parquet', 'b.parquet'], [])
    """
    by_split: dict[str | None, list[str]] = {}
    for name in names:
        by_split.setdefault(split_of(name), []).append(name)
    train, test, validation = (by_split.get(split, []) for split in ("train", "test", "validation"))
    main = train or by_split.get(None, [])
    if not main:
        return list(names), []
    return main, test or (validation if train else [])


def split_of(name: str) -> str | None:
    """The split that a file belongs to by its name or folder: train, test, validation or None.

    >>> split_of("default/partial-train/0000.parquet"), split_of("pictures.parquet")
    ('train', None)
    """
    for part in reversed(PurePath(name).with_suffix("").parts):
        word = part.lower().removeprefix("partial-").replace("_", "-").split("-")[0]
        if word in _SPLIT_WORDS:
            return _SPLIT_WORDS[word]
    return None


def _open_files(paths: Sequence[Path], image: str, label: str) -> Rows:
    columns = [_label_column(path, image, label) for path in paths]
    ends = list(accumulate(len(column) for column in columns))
    if not ends[-1]:
        raise DataError(f"{paths[0]} has no rows; expected at least one image; fix: check how the file was written")

    def name(row: int) -> str:
        position = min(bisect_right(ends, row), len(ends) - 1)
        return f"{paths[position]} row {row - (ends[position - 1] if position else 0)}"

    def batches() -> Iterator[Sequence[bytes]]:
        start = 0
        for path in paths:
            for batch in _encoded_images(path, image):
                yield _all_present(batch, name, start)
                start += len(batch)

    labels = checked_labels(np.concatenate(columns), name)
    return Rows(labels, _class_names(paths[0], label), batches, name, lambda: f"{image} {files_digest(paths)}")


def _all_present(batch: list[bytes | None], name: Callable[[int], str], start: int) -> list[bytes]:
    present = [encoded for encoded in batch if encoded is not None]
    if len(present) < len(batch):
        missing = name(start + batch.index(None))
        raise DataError(f"{missing} has no image bytes; expected an encoded image; fix: remove the row")
    return present


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, expected="a Parquet file") from error


def _label_column(path: Path, image: str, label: str) -> NDArray[Any]:
    import pyarrow as pa

    file = _opened(path)
    for option, column in (("image", image), ("label", label)):
        if column not in file.schema_arrow.names:
            known = file.schema_arrow.names
            raise DataError(
                f"{path} has no column '{column}'{nearest(column, known) or '.'} Columns: {', '.join(known)}; "
                f"fix: add {option}=COLUMN"
            )
    kind = file.schema_arrow.field(label).type
    if not pa.types.is_integer(kind):
        raise DataError(
            f"{path}: column '{label}' is {kind}; expected whole numbers; fix: store class numbers counted from 0"
        )
    try:
        column = file.read([label]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, expected="a whole Parquet file") from error
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"{path} row {row} has no label; expected a class number; fix: drop unlabeled rows")
    return np.asarray(column.to_numpy())


def _encoded_images(path: Path, image: str) -> Iterator[list[bytes | None]]:
    import pyarrow as pa

    file = _opened(path)
    kind = file.schema_arrow.field(image).type
    nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    stored = kind.field("bytes").type if nested else kind
    if not (pa.types.is_binary(stored) or pa.types.is_large_binary(stored)):
        raise DataError(
            f"{path}: column '{image}' is {kind}; expected encoded images as binary or struct<bytes, path>; "
            "fix: add image=COLUMN"
        )
    try:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=[f"{image}.bytes" if nested else image]):
            column = batch.column(0)
            yield (column.flatten()[0] if nested else column).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error, expected="a whole Parquet file") from error


def _class_names(path: Path, label: str) -> tuple[str, ...] | None:
    """Names in the file's metadata, None where there are none."""
    text = (_opened(path).schema_arrow.metadata or {}).get(_METADATA_KEY)
    if text is None:
        return None
    try:
        names = json.loads(text)["info"]["features"].get(label, {}).get("names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, error, expected="features as JSON in the metadata key 'huggingface'") from error
    return tuple(map(str, names)) if names else None
