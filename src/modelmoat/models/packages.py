"""Packages that only some models need."""

from __future__ import annotations

import importlib
from typing import Any

from modelmoat.core.errors import ModelError


def import_extra(package: str, *, extra: str, reference: str) -> Any:
    """Import an optional package; raises `ModelError` that tells a missing package from a broken one."""
    try:
        return importlib.import_module(package)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise ModelError(
                f"model '{reference}' needs the package {package}, which is not installed; "
                f"fix: pip install 'modelmoat[{extra}]'"
            ) from error
        raise ModelError(
            f"model '{reference}' needs the package {package}, which is installed but fails to import: "
            f"{type(error).__name__}: {error}; fix: reinstall it with pip install --force-reinstall {package}"
        ) from error
