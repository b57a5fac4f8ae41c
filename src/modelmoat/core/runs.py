"""The page that says how a run was made: ``run.json``."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelmoat.core.errors import RunError
from modelmoat.core.files import write_text

RUN_FILE = "run.json"
_PACKAGES = ("torch", "numpy", "safetensors", "pyarrow", "pillow", "scikit-learn", "onnxruntime")
_CPU_FILE, _MEMORY_FILE = Path("/proc/cpuinfo"), Path("/proc/meminfo")


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
    kind = {"system": platform.system(), "processor": platform.machine()}
    return {**kind, "cores": os.cpu_count() or 0, **_of_linux(), **(extra or {})}


def _of_linux() -> dict[str, str | int]:
    """Name of the CPU and memory in GiB, where the system tells them as Linux does."""
    found: dict[str, str | int] = {}
    if name := _told(_CPU_FILE, "model name"):
        found["cpu"] = name
    if (memory := _told(_MEMORY_FILE, "MemTotal").removesuffix(" kB")).isdecimal():
        found["memory_gib"] = round(int(memory) / 2**20)
    return found


def _told(file: Path, key: str) -> str:
    """What the first line ``key: value`` of a file says; empty where there is none."""
    with suppress(OSError, UnicodeDecodeError):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return " ".join(value.split())
    return ""


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
