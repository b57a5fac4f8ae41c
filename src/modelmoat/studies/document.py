"""YAML whose every value knows its line, so that a mistake can be pointed at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelmoat.core.errors import OptionError, UnknownReference

Place = Sequence[str | int]
"""Keys and positions that lead to a value, outermost first."""

EXTENDS, GRID = "extends", "grid"  # keys that are gone once the file is read


@dataclass(frozen=True)
class Document:
    """The values of one YAML file, and the tree that they were read from.

    Attributes:
        path: the file.
        value: mappings, lists, text and numbers.
        root: the tree, with the lines and the files that they are in.
    """

    path: Path
    value: Any
    root: yaml.Node

    def error(self, place: Place, words: str) -> OptionError:
        """What is wrong, with the line and the key where it is."""
        key = ".".join(map(str, place))
        mark = self._mark(place)
        return OptionError(f"{_line(mark)}{f', {key}' if key else ''}: {words}")

    def _mark(self, place: Place) -> yaml.Mark:
        """File and line of a key, or of the nearest thing around it that is there."""
        node, mark = self.root, self.root.start_mark
        for step in place:
            found = _inside(node, step)
            if found is None:
                break
            mark, node = found
        return mark


def read_document(path: Path) -> Document:
    """Read a YAML file.

    With ``extends: OTHER.yaml`` at the top it has all keys of the other file, a path from its own folder, but for those
    that it gives itself.

    Raises:
        UnknownReference: there is no such file.
        OptionError: it is not YAML, is empty, has a key twice or one that is no name, or contains or extends itself.
    """
    return from_tree(path, _tree(path, ()))


def from_tree(path: Path, root: yaml.Node) -> Document:
    """The document of a tree; raises `OptionError` for values that YAML cannot read."""
    with _yaml_errors(path):
        return Document(path, yaml.SafeLoader("").construct_document(root), root)


def _tree(path: Path, extended_by: tuple[Path, ...]) -> yaml.Node:
    """The tree of a file, with what it takes from another."""
    root = _own_tree(path)
    base = _inside(root, EXTENDS)
    if base is None or not isinstance(root, yaml.MappingNode):
        return root
    mark, node = base
    where = f"{_line(mark)}, {EXTENDS}"
    if not isinstance(node, yaml.ScalarNode):
        raise OptionError(f"{where}: expected the path of one study file, got {_kind(node)}")
    other = path.parent / node.value
    if other.resolve() in extended_by or other.resolve() == path.resolve():
        raise OptionError(f"{where}: '{node.value}' extends this file in turn")
    if not other.is_file():
        raise UnknownReference(f"{where}: there is no file '{other}'; fix: a path from the folder of this file")
    taken = _tree(other, (*extended_by, path.resolve()))
    own = [pair for pair in root.value if pair[0].value != EXTENDS]
    names = {key.value for key, _ in own}
    more = [pair for pair in taken.value if pair[0].value not in names] if isinstance(taken, yaml.MappingNode) else []
    return yaml.MappingNode(root.tag, own + more, root.start_mark, root.end_mark)


def _own_tree(path: Path) -> yaml.Node:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnknownReference(f"study '{path}': {error.strerror}; fix: name a YAML file") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: {error.reason} at byte {error.start}; expected YAML in UTF-8") from error
    loader = yaml.SafeLoader(text)
    loader.name = str(path)  # marks name it
    with _yaml_errors(path):
        root = loader.get_single_node()
    loader.dispose()
    if root is None:
        raise OptionError(f"{path} is empty; fix: see the studies folder of the project for examples")
    _check_tree(root, set(), set())
    return root


@contextmanager
def _yaml_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else path
        raise OptionError(f"{where}: {error.problem or error.context}; expected YAML") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: {' '.join(str(error).split())}; expected YAML") from error


def _inside(node: yaml.Node, step: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    """Place and node of one step into a mapping or a list."""
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None


def _check_tree(node: yaml.Node, around: set[int], checked: set[int]) -> None:
    """Raise for what YAML allows and a study cannot have.

    Args:
        node: what to check, with all that is in it.
        around: identities of the nodes that it is in; an alias may lead back to one.
        checked: identities of the nodes that are fine; aliases lead to some of them again.
    """
    if id(node) in around:
        raise OptionError(f"{_line(node.start_mark)}: {_kind(node)} that contains itself; fix: remove the alias in it")
    if id(node) in checked or isinstance(node, yaml.ScalarNode):
        return
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    for inner in (value for _, value in node.value) if isinstance(node, yaml.MappingNode) else node.value:
        _check_tree(inner, {*around, id(node)}, checked)
    checked.add(id(node))


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise where a key is no name, or is there twice; YAML readers silently keep the last."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        where = _line(key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            raise OptionError(f"{where}: {_kind(key)} as a key, expected a name")
        if key.value in seen:
            raise OptionError(
                f"{where}: '{key.value}' is there twice, first in line {seen[key.value]}; fix: remove one"
            )
        seen[key.value] = key.start_mark.line + 1


def _line(mark: yaml.Mark) -> str:
    return f"{mark.name}, line {mark.line + 1}"


def _kind(node: yaml.Node) -> str:
    return {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}.get(type(node), "a value")
