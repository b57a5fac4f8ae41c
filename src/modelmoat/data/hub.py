"""Data sets of the Hugging Face hub, through the optional package ``huggingface-hub``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modelmoat.core.errors import DataError, UnknownReference
from modelmoat.data.parquet import grouped, open_files, split_of
from modelmoat.data.rows import Source

_CONVERTED = "refs/convert/parquet"


def open_hub(location: str, *, image: str = "image", label: str = "label") -> Source:
    """Download the Parquet files of ``OWNER/NAME`` (once; the hub's own cache keeps them) and open them.

    Files of the main revision are preferred to those that the hub converted.

    Raises:
        UnknownReference: the location is not ``OWNER/NAME``.
        DataError: the extra is not installed, the hub cannot be reached, or the data set has no usable Parquet files.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", location):
        raise UnknownReference(
            f"hub:{location} is no data set of the hub; write hub:OWNER/NAME, such as hub:ylecun/mnist"
        )
    api = _api(location)
    try:
        revision, names = _parquet_files(api, location)
        main, test = grouped(names)
        files = {name: _download(api, location, name, revision) for name in [*main, *test]}
    except DataError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"cannot get hub:{location}: {reason}; expected a public data set and a connection to the hub; "
            "fix: check the name and the connection, or download the files and use parquet:DIR"
        ) from error
    return open_files(files, image=image, label=label)


def _api(location: str) -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise DataError(
            f"hub:{location} needs the package huggingface-hub; fix: pip install 'modelmoat[hub]'"
        ) from error
    return HfApi()


def _parquet_files(api: Any, location: str) -> tuple[str | None, list[str]]:
    for revision in (None, _CONVERTED):
        listed = api.list_repo_files(location, repo_type="dataset", revision=revision)
        names = sorted(name for name in listed if name.endswith(".parquet"))
        folders = sorted({name.split("/")[0] for name in names if "/" in name})
        configurations = [folder for folder in folders if split_of(folder) is None]
        if len(configurations) > 1:
            raise DataError(
                f"hub:{location} has several configurations: {', '.join(configurations)}; expected one; "
                "fix: download the files of one and use parquet:DIR"
            )
        if names:
            return revision, names
    raise DataError(
        f"hub:{location} has no .parquet files; expected images as Parquet; "
        "fix: download it and use folder:DIR or npz:FILE"
    )


def _download(api: Any, location: str, name: str, revision: str | None) -> Path:
    return Path(api.hf_hub_download(location, name, repo_type="dataset", revision=revision))
