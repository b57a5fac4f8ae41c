"""What a page says of a method, from the registries, and where the page is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from modelmoat.attacks import ATTACKS, RECOVERIES, Attack, Recovery
from modelmoat.core.docstrings import explanation, parameter_help
from modelmoat.core.registry import Method, Registry, split_outside
from modelmoat.defenses import DEFENSES, Defense
from modelmoat.leaderboard.ranking import Board
from modelmoat.recipes import RECIPES

Family = Literal["defense", "attack", "recovery", "recipe"]
FAMILIES: tuple[Family, ...] = get_args(Family)
_REGISTRIES: dict[Family, Registry[Any]] = {
    "defense": DEFENSES,
    "attack": ATTACKS,
    "recovery": RECOVERIES,
    "recipe": RECIPES,
}
_NEEDS = {
    "inputs": "the inputs",
    "logits": "the logits",
    "training": "preparation with the victim's training images",
}
_CLASSES = 10  # a dial may depend on how many there are; its parameter does not
_SAFE = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter with its default as on the command line; ``help`` is empty where the summary says enough."""

    name: str
    default: str
    help: str


@dataclass(frozen=True)
class MethodPage:
    """A method by name; ``summary`` is empty for one that this version does not have."""

    family: Family
    name: str
    summary: str = ""
    explanation: str = ""
    paper: str = ""
    parameters: tuple[Parameter, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        """The page's file, from the site's folder."""
        return method_path(self.family, self.name)


def method_path(family: Family, name: str) -> str:
    """The file of a method's page; a name that is not one of a method of ours gets a safe one."""
    if _SAFE.fullmatch(name):
        return f"{family}/{name}.html"
    return f"{family}/other-{hashlib.sha256(name.encode()).hexdigest()[:12]}.html"


def method_names(family: Family, references: Iterable[str]) -> tuple[str, ...]:
    """The methods of a family that references are made of, in order, each once.

    >>> method_names("defense", ["dcp:beta=0.5+rounding"])
    ('dcp', 'rounding')
    >>> method_names("attack", ["knockoff+averaging:copies=3"])
    ('knockoff',)
    >>> method_names("recovery", ["knockoff+averaging:copies=3"])
    ('averaging',)
    """
    known = _REGISTRIES[family].names()
    found: dict[str, None] = {}
    for reference in references:
        first, *others = [part.partition(":")[0].strip() for part in split_outside(reference, "+")]
        names = others if family == "recovery" else [first, *(name for name in others if name in known)]
        found |= dict.fromkeys(names)
    return tuple(found)


def method_pages(boards: Sequence[Board]) -> list[MethodPage]:
    """One for every registered defense and attack, and for those that only records know."""
    defenses = {spec for board in boards for standing in board.standings for spec in standing.specs}
    attacks = {cell.attack_spec for board in boards for cell in board.cells}
    return [
        *(describe("defense", name) for name in sorted({*DEFENSES.names(), *method_names("defense", defenses)})),
        *(describe("attack", name) for name in sorted({*ATTACKS.names(), *method_names("attack", attacks)})),
    ]


def family_pages(family: Family) -> list[MethodPage]:
    """One for every registered method of a family, by name."""
    return [describe(family, name) for name in _REGISTRIES[family].names()]


def describe(family: Family, name: str) -> MethodPage:
    """What the registry says of a method."""
    registry = _REGISTRIES[family]
    if name not in registry.names():
        return MethodPage(family, name)
    cls = registry.get(name)
    return MethodPage(
        family=family,
        name=name,
        summary=cls.summary(),
        explanation=explanation(cls),
        paper="" if cls.paper == "-" else cls.paper,
        parameters=_parameters(cls),
        facts=tuple(_facts(cls).items()),
    )


def _facts(cls: type[Method]) -> dict[str, str]:
    if issubclass(cls, Defense):
        return _defense_facts(cls)
    if issubclass(cls, Attack):
        asks = {"Asks the victim": "yes" if cls.sends else "no, a baseline"}
        return {"Knows": cls.knows, "Uses": ", ".join(sorted(cls.outputs))} | asks
    if issubclass(cls, Recovery):
        return {"Knows": cls.knows, "Uses": ", ".join(sorted(cls.outputs))}
    return {}


def _defense_facts(cls: type[Defense]) -> dict[str, str]:
    """At the defaults, since parameters may decide some."""
    method = cls()
    bound, dial = method.l1_bound, method.dial(_CLASSES)
    return {
        "Served top-1": "always the clean one" if method.keeps_top1 else "may differ from the clean one",
        "L1 from the clean answer": f"at most {bound:.6g}" if bound < 2 else "up to 2, which is no limit",
        "Same input again": "the same answer" if method.deterministic else "another answer",
        "State between queries": "yes" if method.stateful else "none",
        "Needs beside answers": ", ".join(_NEEDS[one] for one in sorted(method.needs)) or "nothing",
        "Calibration turns": dial.parameter if dial else "nothing",
        "Can be exported": "yes" if method.exportable else "no",
    }


def _parameters(cls: type[Method]) -> tuple[Parameter, ...]:
    helps = parameter_help(cls)
    return tuple(Parameter(field.name, _written(field.default), helps[field.name]) for field in fields(cls))


def _written(value: object) -> str:
    """As on the command line, numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool | None) else str(value)
