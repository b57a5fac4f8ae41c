"""The page that says how a run was made: ``run.json``."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelmoat.core.errors import RunError
from modelmoat.core.files import write_text

RUN_FILE = "run.json"
_PACKAGES = ("torch", "numpy", "safetensors", "pyarrow", "pillow", "scikit-learn", "onnxruntime")


class RunInfo(BaseModel):
    """Everything needed to repeat a run."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    commands: list[list[str]] = Field(description="all commands that wrote to the folder, oldest first")
    spec: dict[str, Any] = Field(description="what all of them together asked for")
    spec_digest: str
    created: str
    updated: str
    package_version: str
    versions: dict[str, str]
    machine: dict[str, str | int]
    hashes: dict[str, str]
    price_per_1000: float
    target_fidelity: float


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(extra: Mapping[str, str | int] | None = None) -> dict[str, str | int]:
    """What the run ran on; no host name and no user name."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count() or 0, **(extra or {})}


def read_run(directory: Path) -> RunInfo | None:
    """The run page of a directory, or None where there is none yet."""
    path = directory / RUN_FILE
    if not path.exists():
        return None
    try:
        return RunInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(
            f"{path} is not a run page of this version: {error.errors()[0]['msg']}; fix: use another --out folder"
        ) from error


def write_run(directory: Path, info: RunInfo) -> None:
    """Write the run page, whole or not at all."""
    write_text(directory / RUN_FILE, info.model_dump_json(indent=2) + "\n")
