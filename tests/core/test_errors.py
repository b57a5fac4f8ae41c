from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import modelmoat
from modelmoat.core import errors
from modelmoat.core.errors import ModelmoatError, OptionError, nearest, require, unknown


def documented() -> dict[str, str]:
    """Parent of every class in the tree of the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│├└─ ]*)(\w+) {2,}\w", line)
        if found:
            path = [*path[: len(found[1]) // 4], found[2]]
            parents[found[2]] = path[-2] if len(path) > 1 else "Exception"
    return parents


def real(cls: type[Exception] = ModelmoatError) -> dict[str, str]:
    """Parent of every error of the package."""
    parents = {cls.__name__: cls.__bases__[0].__name__}
    for child in cls.__subclasses__():
        if child.__module__.partition(".")[0] == "modelmoat":
            parents |= real(child)
    return parents


def test_the_documented_tree_is_the_real_one() -> None:
    for module in pkgutil.walk_packages(modelmoat.__path__, "modelmoat."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert documented() == real()


def test_an_unknown_name_is_told_with_the_nearest_and_the_fix() -> None:
    error = unknown("attack", "nockoff", ["thief", "knockoff"], fix="see modelmoat list")
    assert str(error) == (
        "unknown attack 'nockoff'; did you mean 'knockoff'? Known: knockoff, thief; see modelmoat list"
    )
    assert nearest("entirely", ["knockoff"]) == ""


def test_require_raises_its_message_or_nothing() -> None:
    require(True, "unused")
    with pytest.raises(OptionError, match=r"^k=0: expected at least 1$"):
        require(False, "k=0: expected at least 1")
