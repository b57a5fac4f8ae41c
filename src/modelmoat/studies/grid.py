"""Grids: a plan of a defense with lists of values stands for one plan for every combination."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import yaml

from modelmoat.core.errors import ModelmoatError, nearest
from modelmoat.core.registry import split_outside
from modelmoat.defenses import Defense, parse_defense
from modelmoat.studies.document import GRID, Document, Place, from_tree

_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_CLASSES = 10  # any number: what a dial turns does not depend on it


def with_grids(document: Document) -> Document:
    """The document with a plan for every combination in the place of each plan that has a grid.

    The defenses of the study and those of its victims may have one. Every plan keeps the lines of the one that it is from.

    Raises:
        OptionError: a grid is no mapping of parameters of one defense to lists of values, or has a parameter that is set
            elsewhere.
    """
    return from_tree(document.path, _Expansion(document).study())


class _Expansion:
    """Rewrites the tree of one document."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def study(self) -> yaml.Node:
        """The whole tree, rewritten."""
        return _changed(self._defenses(self._document.root, ()), "victims", self._victims)

    def _victims(self, node: yaml.Node) -> yaml.Node:
        if not isinstance(node, yaml.MappingNode):
            return node
        pairs = [(key, self._defenses(value, ("victims", key.value))) for key, value in node.value]
        return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)

    def _defenses(self, node: yaml.Node, place: Place) -> yaml.Node:
        """A mapping whose ``defenses``, if it has some, have no grids any more."""

        def without_grids(plans: yaml.Node) -> yaml.Node:
            if not isinstance(plans, yaml.SequenceNode):
                return plans
            places = [(*place, "defenses", number) for number in range(len(plans.value))]
            each = [one for plan, at in zip(plans.value, places, strict=True) for one in self._plans(plan, at)]
            return yaml.SequenceNode(plans.tag, each, plans.start_mark, plans.end_mark)

        return _changed(node, "defenses", without_grids)

    def _plans(self, plan: yaml.Node, place: Place) -> list[yaml.Node]:
        """One plan for each combination; the plan itself where it has no grid."""
        parts = {key.value: value for key, value in plan.value} if isinstance(plan, yaml.MappingNode) else {}
        if GRID not in parts:
            return [plan]
        values = self._values(parts[GRID], (*place, GRID))
        defense = parts.get("defense")
        if not isinstance(defense, yaml.ScalarNode):
            raise self._document.error(place, f"a {GRID} without a defense; fix: defense: NAME")
        self._check_parameters(defense.value, values, place)
        plans = []
        for chosen in product(*values.values()):
            options = ",".join(f"{name}={value}" for name, value in zip(values, chosen, strict=True))
            reference = f"{defense.value}{',' if ':' in defense.value else ':'}{options}"
            method = self._parsed(reference, (*place, GRID))
            self._check_dial(method, values, place, calibrated="calibrate" in parts)
            own = {"defense": reference}
            if "name" in parts:
                own["name"] = f"{parts['name'].value} {options}"
            plans.append(_rewritten(plan, own))
        return plans

    def _values(self, grid: yaml.Node, place: Place) -> dict[str, list[str]]:
        """Lists of values as text, by parameter."""
        if not isinstance(grid, yaml.MappingNode) or not grid.value:
            raise self._document.error(place, "expected lists of values by parameter, such as {beta: [0.1, 0.3]}")
        for key, values in grid.value:
            simple = isinstance(values, yaml.SequenceNode) and values.value
            if not simple or not all(isinstance(value, yaml.ScalarNode) for value in values.value):
                raise self._document.error((*place, key.value), "expected a list of values, such as [0.1, 0.3]")
        return {key.value: [_written(value) for value in values.value] for key, values in grid.value}

    def _check_parameters(self, reference: str, values: dict[str, list[str]], place: Place) -> None:
        """Raise where a parameter of the grid is none of the defense, or is set beside the grid."""
        method = self._parsed(reference, (*place, "defense"))
        if "steps" in (known := method.parameters()):
            raise self._document.error((*place, GRID), f"'{reference}' has several steps; fix: one defense for a grid")
        options = split_outside(reference.partition(":")[2], ",")
        given = {option.partition("=")[0].strip() for option in options}
        for name in values:
            if name not in known:
                words = f"'{method.name}' has no parameter '{name}'{nearest(name, known) or '.'} Parameters: {', '.join(known)}"
                raise self._document.error((*place, GRID, name), words)
            if name in given:
                raise self._document.error((*place, GRID, name), f"{name} is set by '{reference}' too; fix: remove one")

    def _check_dial(self, method: Defense, values: dict[str, list[str]], place: Place, *, calibrated: bool) -> None:
        dial = method.dial(_CLASSES) if calibrated else None
        if dial and dial.parameter in values:
            words = f"calibrate finds {dial.parameter} itself; fix: remove it from the {GRID}, or remove calibrate"
            raise self._document.error((*place, GRID, dial.parameter), words)

    def _parsed(self, reference: str, place: Place) -> Defense:
        try:
            return parse_defense(reference)
        except ModelmoatError as error:
            raise self._document.error(place, str(error)) from error


def _changed(node: yaml.Node, key: str, change: Callable[[yaml.Node], yaml.Node]) -> yaml.Node:
    """A mapping with the value of one key changed, if it has that key."""
    if not isinstance(node, yaml.MappingNode):
        return node
    pairs = [(name, change(value) if name.value == key else value) for name, value in node.value]
    return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)


def _rewritten(plan: yaml.MappingNode, texts: dict[str, str]) -> yaml.Node:
    """A plan without its grid, and with other texts by key."""
    pairs = []
    for key, value in plan.value:
        if key.value in texts:
            text = yaml.ScalarNode(_TEXT, texts[key.value], value.start_mark, value.end_mark)
            pairs.append((key, text))
        elif key.value != GRID:
            pairs.append((key, value))
    return yaml.MappingNode(plan.tag, pairs, plan.start_mark, plan.end_mark)


def _written(value: yaml.ScalarNode) -> str:
    """A value as a reference has it."""
    if value.tag == _NULL:
        return "none"
    return f"({value.value})" if any(mark in value.value for mark in ",+") else str(value.value)
