"""What the docstrings of a method say, in parts: the explanation, and each parameter."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path

from modelmoat.core.registry import Method

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): (.*)$")
_SECTION = re.compile(r"^(Parameters|Attributes|Raises|Args):$")


def explanation(cls: type[Method]) -> str:
    """The paragraphs between the first line of the class docstring and its sections, and those after them; no examples."""
    kept = "\n".join(_outside(inspect.cleandoc(cls.__doc__ or "").splitlines()[1:]))
    paragraphs = re.split(r"\n{2,}", kept.strip("\n"))
    return "\n\n".join(text for text in paragraphs if not text.lstrip().startswith(">>>"))


def parameter_help(cls: type[Method]) -> dict[str, str]:
    """One sentence or more for each parameter, in the order of the parameters; empty where nothing is said.

    They come from the section ``Parameters:`` of the class docstring, or from the string under the field; what a class
    says goes before what its bases say.
    """
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if issubclass(base, Method) and base is not Method:
            found = {**_under_fields(base), **_in_section(base.__doc__ or ""), **found}
    return {field.name: found.get(field.name, "") for field in fields(cls)}


def _outside(lines: list[str]) -> Iterator[str]:
    """The lines that belong to no section; one ends where its indentation does."""
    inside = False
    for line in lines:
        inside = bool(_SECTION.match(line)) or (inside and (line.startswith(" ") or not line))
        if not inside:
            yield line
        elif not line:
            yield ""


def _in_section(docstring: str) -> dict[str, str]:
    """Entries ``name: text`` or ``name, other: text``, continued on lines that are indented more."""
    _, _, section = inspect.cleandoc(docstring).partition("\nParameters:\n")
    entries: list[tuple[str, list[str]]] = []
    for line in textwrap.dedent("\n".join(_indented(section.splitlines()))).splitlines():
        match = _ENTRY.match(line)
        if match:
            entries.append((match[1], [match[2]]))
        elif entries and line.strip():
            entries[-1][1].append(line.strip())
    return {name: " ".join(lines) for names, lines in entries for name in names.split(", ")}


def _indented(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line and not line.startswith(" "):
            return
        yield line


def _under_fields(cls: type[Method]) -> dict[str, str]:
    """The strings under the fields of a class; none for one that was made without a file."""
    try:
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return {}
    return _in_file(file).get(cls.__name__, {}) if file else {}


@cache
def _in_file(file: str) -> dict[str, dict[str, str]]:
    """The strings under the fields of the classes of a file, by class."""
    if not Path(file).is_file():
        return {}
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {node.name: dict(_documented(node.body)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            words = ast.literal_eval(text.value) if isinstance(text.value, ast.Constant) else ""
            yield field.target.id, " ".join(str(words).split())
