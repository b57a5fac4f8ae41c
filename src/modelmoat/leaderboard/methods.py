"""What a page says of a method, from the registries, and where the page is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from modelmoat.attacks import ATTACKS, Attack
from modelmoat.core.registry import split_outside
from modelmoat.defenses import DEFENSES, Defense
from modelmoat.leaderboard.ranking import Board

Family = Literal["defense", "attack"]
_SAFE = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class MethodPage:
    """A method by name; ``summary`` is empty for one that this version does not have."""

    family: Family
    name: str
    summary: str
    paper: str
    parameters: dict[str, str]
    facts: dict[str, str]

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
    """
    known = DEFENSES.names() if family == "defense" else ATTACKS.names()
    found: dict[str, None] = {}
    for reference in references:
        first, *others = [part.partition(":")[0].strip() for part in split_outside(reference, "+")]
        found |= dict.fromkeys([first, *(name for name in others if name in known)])
    return tuple(found)


def method_pages(boards: Sequence[Board]) -> list[MethodPage]:
    """One for every registered defense and attack, and for those that only records know."""
    defenses = {spec for board in boards for standing in board.standings for spec in standing.specs}
    attacks = {cell.attack_spec for board in boards for cell in board.cells}
    return [
        *(_defense(name) for name in sorted({*DEFENSES.names(), *method_names("defense", defenses)})),
        *(_attack(name) for name in sorted({*ATTACKS.names(), *method_names("attack", attacks)})),
    ]


def _defense(name: str) -> MethodPage:
    if name not in DEFENSES.names():
        return MethodPage("defense", name, "", "", {}, {})
    cls: type[Defense] = DEFENSES.get(name)
    facts = {
        "Served top-1": "always the clean one" if cls.keeps_top1 else "may differ from the clean one",
        "Same input again": "the same answer" if cls.deterministic else "another answer",
        "State between queries": "yes" if cls.stateful else "none",
        "Can be exported": "yes" if cls.exportable else "no",
    }
    return MethodPage("defense", name, cls.summary(), cls.paper, _parameters(cls), facts)


def _attack(name: str) -> MethodPage:
    if name not in ATTACKS.names():
        return MethodPage("attack", name, "", "", {}, {})
    cls: type[Attack] = ATTACKS.get(name)
    facts = {
        "Knows": cls.knows,
        "Uses": ", ".join(sorted(cls.outputs)),
        "Asks the victim": "yes" if cls.sends else "no, a baseline",
    }
    return MethodPage("attack", name, cls.summary(), cls.paper, _parameters(cls), facts)


def _parameters(cls: type[Any]) -> dict[str, str]:
    return {field.name: _written(field.default) for field in fields(cls)}


def _written(value: object) -> str:
    """As on the command line, numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool | None) else str(value)
