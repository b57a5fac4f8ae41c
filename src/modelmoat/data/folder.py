"""Folders of image files, one folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from modelmoat.core.errors import DataError
from modelmoat.data.rows import Rows, Source, checked_labels, files_digest, unreadable

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_FILES_PER_BATCH = 1024


def open_folder(location: str) -> Source:
    """Open ``DIR/CLASS/*``, or ``DIR/train/CLASS/*`` with ``DIR/test/CLASS/*``.

    Hidden files are left out; any other file in the folder of a class has to be an image.

    Raises:
        DataError: nothing there, a class without images, a file that is no image, or a test class that train lacks.
    """
    root = Path(location).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected one folder for each class inside it; fix: check the path")
    train, test = root / "train", root / "test"
    if not (train.is_dir() and test.is_dir()):
        return Source(_open_classes(root, _classes(root)))
    classes = _classes(train)
    extra = sorted(set(_classes(test)) - set(classes))
    if extra:
        raise DataError(
            f"{test} has the class '{extra[0]}', which {train} lacks; expected the same classes; "
            "fix: rename or remove it"
        )
    return Source(_open_classes(train, classes), _open_classes(test, classes))


def _classes(root: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in _visible(root) if entry.is_dir()))


def _open_classes(root: Path, classes: tuple[str, ...]) -> Rows:
    present = [number for number, name in enumerate(classes) if (root / name).is_dir()]
    if not present:
        raise DataError(
            f"{root} is empty; expected one folder of images for each class; fix: make folders such as {root / 'cat'}"
        )
    files = {number: _images(root / classes[number]) for number in present}
    paths = [path for number in present for path in files[number]]

    def name(row: int) -> str:
        return str(paths[row])

    def batches() -> Iterator[Sequence[Path]]:
        for start in range(0, len(paths), _FILES_PER_BATCH):
            yield paths[start : start + _FILES_PER_BATCH]

    def fingerprint() -> str:
        names = "\n".join(str(path.relative_to(root)) for path in paths)
        return hashlib.sha256(f"{names}\n{files_digest(paths)}".encode()).hexdigest()

    labels = np.repeat(np.array(present), [len(files[number]) for number in present])
    return Rows(checked_labels(labels, name), classes, batches, name, fingerprint)


def _images(folder: Path) -> list[Path]:
    entries = _visible(folder)
    foreign = next((entry for entry in entries if entry.suffix.lower() not in ENDINGS or not entry.is_file()), None)
    if foreign is not None:
        raise DataError(
            f"{foreign} is no image file; expected files that end in {', '.join(ENDINGS)}; fix: convert or move it"
        )
    if not entries:
        raise DataError(
            f"{folder} holds no images; expected at least one for each class; fix: add some or remove the folder"
        )
    return entries


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error, expected="a folder that can be listed") from error
