"""From a parsed reference to the source that it names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from modelmoat.core.errors import unknown
from modelmoat.data.embedded import open_digits, open_photo_patches
from modelmoat.data.folder import open_folder
from modelmoat.data.hub import open_hub
from modelmoat.data.npz import open_npz
from modelmoat.data.parquet import open_parquet
from modelmoat.data.references import EMBEDDED, LOCATED, Reference, parse
from modelmoat.data.rows import Source

FOLDER_VARIABLE = "MODELMOAT_DATA"


@dataclass(frozen=True)
class SourceInfo:
    """One line of the list of data sources."""

    name: str
    summary: str
    example: str


@dataclass(frozen=True)
class _HubSet:
    location: str
    summary: str
    image: str | None = None
    size: int | None = None


_HUB_SETS = {
    "mnist": _HubSet("ylecun/mnist", "handwritten digits, 28x28 grey, 10 classes"),
    "fashion-mnist": _HubSet("zalando-datasets/fashion_mnist", "pictures of clothes, 28x28 grey, 10 classes"),
    "cifar10": _HubSet("uoft-cs/cifar10", "small photos, 32x32 RGB, 10 classes", image="img"),
    "tiny-imagenet-32": _HubSet("zh-plus/tiny-imagenet", "small photos, 32x32 RGB, 200 classes", size=32),
}
_SCHEMES = (
    SourceInfo("digits", "handwritten digits of scikit-learn, 8x8 grey, 10 classes, embedded", "digits,size=28"),
    SourceInfo(
        "photo-patches",
        "crops of scikit-learn's sample photos, 32x32 RGB, embedded",
        "photo-patches,grey,n=2000,size=28",
    ),
    SourceInfo("parquet", "Parquet files with columns image and label", "parquet:DIR,size=28,grey,split=train"),
    SourceInfo("folder", "image files, one folder for each class", "folder:DIR,size=32"),
    SourceInfo("npz", "NumPy archive with arrays x and y", "npz:FILE,validation=0.2"),
    SourceInfo("hub", "data set of the Hugging Face hub", "hub:OWNER/NAME,size=32"),
)


def known_sources() -> list[SourceInfo]:
    """Every source that a reference can name, with those found under ``$MODELMOAT_DATA``."""
    named = [
        SourceInfo(name, f"{item.summary}, $MODELMOAT_DATA or hub", f"{name},split=train")
        for name, item in _HUB_SETS.items()
    ]
    local = [
        SourceInfo(name, "folder under $MODELMOAT_DATA", f"{name},size=28")
        for name in _local_names()
        if name not in _HUB_SETS
    ]
    return [*_SCHEMES, *named, *local]


def resolve(reference: Reference) -> Reference:
    """Replace a well-known name by where it lies: a folder under ``$MODELMOAT_DATA``, else the hub.

    Raises:
        UnknownReference: neither a scheme nor a name that can be found.
    """
    name = reference.scheme
    if name in EMBEDDED or name in LOCATED:
        return reference
    local = _local_folder(name)
    entry = _HUB_SETS.get(name)
    if local is not None:
        scheme = "parquet" if next(local.rglob("*.parquet"), None) else "folder"
        size = reference.size or (entry.size if entry else None)
        return replace(reference, scheme=scheme, location=str(local), size=size)
    if entry is not None:
        size, image = reference.size or entry.size, reference.image or entry.image
        return replace(reference, scheme="hub", location=entry.location, size=size, image=image)
    raise unknown(
        "data source",
        name,
        {info.name for info in known_sources()},
        fix=f"write a name or SCHEME:LOCATION, or set {FOLDER_VARIABLE} to the folder that holds '{name}'",
    )


def source_of(text: str) -> str:
    """Where the images of a reference lie, as scheme and location; raises as `parse` and `resolve` do.

    >>> source_of("hub:ylecun/mnist,size=8")
    'hub:ylecun/mnist'
    """
    return resolve(parse(text)).head


def open_source(reference: Reference) -> Source:
    """Open a resolved reference; nothing is decoded yet."""
    columns = {"image": reference.image or "image", "label": reference.label or "label"}
    match reference.scheme:
        case "digits":
            return open_digits()
        case "photo-patches":
            return open_photo_patches(size=reference.size, count=reference.n, grey=reference.grey)
        case "parquet":
            return open_parquet(reference.location, **columns)
        case "hub":
            return open_hub(reference.location, **columns)
        case "npz":
            return open_npz(reference.location)
        case _:
            return open_folder(reference.location)


def _local_names() -> list[str]:
    root = _local_root()
    return (
        sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if root
        else []
    )


def _local_folder(name: str) -> Path | None:
    root = _local_root()
    plain = re.fullmatch(r"\w[\w.-]*", name)
    return root / name if root and plain and (root / name).is_dir() else None


def _local_root() -> Path | None:
    text = os.environ.get(FOLDER_VARIABLE)
    root = Path(text).expanduser() if text else None
    return root if root and root.is_dir() else None
