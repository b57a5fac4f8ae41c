from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from modelmoat.attacks import ATTACKS, RECOVERIES
from modelmoat.core.docstrings import explanation, parameter_help
from modelmoat.core.registry import Method, Registry
from modelmoat.defenses import DEFENSES
from modelmoat.recipes import RECIPES


@dataclass(frozen=True, kw_only=True, repr=False)
class Base(Method):
    """A base.

    Parameters:
        shared: as the base says.
        other: as the base says.
    """

    shared: int = 1
    other: int = 2
    under: int = 3
    """Under
    its field."""
    silent: int = 4


@dataclass(frozen=True, kw_only=True, repr=False)
class Derived(Base):
    """First line.

    Before the section, in
    two lines.

    Parameters:
        first, second: one text for both,
            on two lines, see `fit`: here.
        other: as the derived class says.

    After it.

    Raises:
        OptionError: never.

    >>> 1 + 1
    2
    """

    first: int = 5
    second: int = 6


def test_help_comes_from_sections_fields_and_bases() -> None:
    both = "one text for both, on two lines, see `fit`: here."
    assert parameter_help(Derived) == {
        "shared": "as the base says.",
        "other": "as the derived class says.",
        "under": "Under its field.",
        "silent": "",
        "first": both,
        "second": both,
    }


def test_explanation_leaves_out_first_line_sections_and_examples() -> None:
    assert explanation(Derived) == "Before the section, in\ntwo lines.\n\nAfter it."
    assert explanation(Base) == ""


@pytest.mark.parametrize("module", ["builtins", "bare"])
def test_a_class_without_a_file_has_what_its_docstring_says(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bare", ModuleType("bare"))
    code = '''
@dataclass(frozen=True, kw_only=True, repr=False)
class Typed(Base):
    """Typed in.

    Parameters:
        own: said.
    """

    own: int = 1
    silent: int = 2
    """Not found."""
'''
    space = {"dataclass": dataclass, "Base": Base, "__name__": module}
    exec(code, space)  # noqa: S102 - our own code
    helps = parameter_help(space["Typed"])
    assert (helps["own"], helps["silent"], helps["under"]) == ("said.", "", "Under its field.")


@pytest.mark.parametrize("registry", [ATTACKS, RECOVERIES, DEFENSES, RECIPES], ids=lambda registry: registry.family)
def test_every_method_explains_its_parameters(registry: Registry) -> None:
    for cls in registry:
        text = explanation(cls)
        assert ">>>" not in text
        assert "Parameters:" not in text
        helps = parameter_help(cls)
        assert list(helps) == list(cls().parameters())
        assert all(helps.values()), f"{cls.name}: nothing is said of {[name for name in helps if not helps[name]]}"
