"""YAML whose every value knows its line, so that a mistake can be pointed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelmoat.core.errors import OptionError, UnknownReference

Place = Sequence[str | int]
"""Keys and positions that lead to a value, outermost first."""


@dataclass(frozen=True)
class Document:
    """The values of one YAML file, and the tree that they were read from.

    Attributes:
        path: the file.
        value: mappings, lists, text and numbers.
        root: the tree, with the lines.
    """

    path: Path
    value: Any
    root: yaml.Node

    def error(self, place: Place, words: str) -> OptionError:
        """What is wrong, with the line and the key where it is."""
        key = ".".join(map(str, place))
        return OptionError(f"{self.path}, line {self.line(place)}{f', {key}' if key else ''}: {words}")

    def line(self, place: Place) -> int:
        """Line of a key, or of the nearest thing around it that is there; counted from 1."""
        node, line = self.root, int(self.root.start_mark.line)
        for step in place:
            found = _inside(node, step)
            if found is None:
                break
            line, node = found
        return line + 1


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UnknownReference: there is no such file.
        OptionError: it is not YAML, is empty, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnknownReference(f"study '{path}': {error.strerror}; fix: name a YAML file") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: {error.reason} at byte {error.start}; expected YAML in UTF-8") from error
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise OptionError(f"{path} is empty; fix: see the studies folder of the project for examples")
        document = Document(path, None, root)
        _refuse_doubles(document, root, ())
        return Document(path, loader.construct_document(root), root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise OptionError(f"{path}{where}: {error.problem or error.context}; expected YAML") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: {' '.join(str(error).split())}; expected YAML") from error
    finally:
        loader.dispose()


def _inside(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    """Line and node of one step into a mapping or a list."""
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line, value) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line, node.value[step]
    return None


def _refuse_doubles(document: Document, node: yaml.Node, place: tuple[str | int, ...]) -> None:
    """Raise where a mapping has a key twice; YAML readers silently keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for number, inner in enumerate(node.value):
            _refuse_doubles(document, inner, (*place, number))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, inner in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise OptionError(
                    f"{document.path}, line {line}: '{key.value}' is there twice, first in line {seen[key.value]}; "
                    "fix: remove one"
                )
            seen[str(key.value)] = line
            _refuse_doubles(document, inner, (*place, key.value))
