"""Methods as values, and the registries that list and build them.

A method (attack, defense, recipe) is a frozen keyword-only dataclass of hyper-parameters. On the command line it is
written ``name`` or ``name:param=value,param=value``; :attr:`Method.spec` gives that text back. A value that is itself the
text of a method stands in parentheses: ``name:param=(other:param=value,param=value)``.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, Union

from modelmoat.core.errors import OptionError, UnknownReference, nearest, unknown


@dataclass(frozen=True, kw_only=True, repr=False)
class Method:
    """A published method with its hyper-parameters; equal parameters make equal methods."""

    name: ClassVar[str]
    paper: ClassVar[str]

    @cached_property
    def spec(self) -> str:
        """The reference that builds this method again, with the parameters that differ from their defaults."""
        changed = [
            f"{key}={_written(value)}" for key, value in self.parameters().items() if value != self._default(key)
        ]
        return f"{self.name}:{','.join(changed)}" if changed else self.name

    def parameters(self) -> dict[str, Any]:
        """Hyper-parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def summary(cls) -> str:
        """First line of the class docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def _default(cls, key: str) -> Any:
        return next((field.default for field in fields(cls) if field.name == key), MISSING)

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.parameters().items())
        return f"{type(self).__name__}({inside})"


M = TypeVar("M", bound=Method)


class Registry(Generic[M]):
    """The methods of one family, found by importing every module of its package.

    Args:
        family: singular word for messages (``attack``).
        package: package whose modules register methods on import.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self._package = package
        self._classes: dict[str, type[M]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[M]], type[M]]:
        """Class decorator that adds a method under ``name``; a second method of that name is an error."""

        def add(cls: type[M]) -> type[M]:
            if name in self._classes:
                raise ValueError(f"{self.family} '{name}' is registered twice: {self._classes[name]!r} and {cls!r}")
            cls.name = name
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """Registered names in alphabetical order."""
        self._discover()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[type[M]]:
        self._discover()
        return iter([self._classes[name] for name in self.names()])

    def get(self, name: str) -> type[M]:
        """The class registered under ``name``; raises `UnknownReference` with the nearest match."""
        self._discover()
        if name not in self._classes:
            raise unknown(self.family, name, self._classes)
        return self._classes[name]

    def create(self, name: str, **parameters: Any) -> M:
        """Build a method from Python values; raises `OptionError` for an unknown or impossible parameter."""
        cls = self.get(name)
        _check_names(self.family, name, parameters, cls)
        hints = typing.get_type_hints(cls)
        for key, value in parameters.items():
            choices = typing.get_args(hints[key]) if typing.get_origin(hints[key]) is typing.Literal else (value,)
            if value not in choices:
                raise OptionError(f"{name}:{key}={value}: expected one of {', '.join(map(str, choices))}")
        return cls(**parameters)

    def parse(self, reference: str) -> M:
        """Build a method from ``name:param=value,param=value``."""
        name, _, options = reference.strip().partition(":")
        cls = self.get(name)
        given = dict(
            _split_option(self.family, reference, part) for part in split_outside(options, ",") if part.strip()
        )
        _check_names(self.family, name, given, cls)
        hints = typing.get_type_hints(cls)
        return cls(**{key: _read(f"{name}:{key}", text, hints[key]) for key, text in given.items()})

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")


def split_outside(text: str, mark: str) -> list[str]:
    """Split at a mark of one character, but not inside parentheses.

    >>> split_outside("a=1,b=(c,d)", ",")
    ['a=1', 'b=(c,d)']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _split_option(family: str, reference: str, part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise UnknownReference(
            f"{family} '{reference}': '{part}' is not param=value; write {family} options as name:param=value,param=value"
        )
    return key.strip(), value.strip()


def _check_names(family: str, name: str, given: dict[str, Any], cls: type[Method]) -> None:
    known = [field.name for field in fields(cls)]
    for key in given:
        if key not in known:
            possible = ", ".join(known) if known else "none"
            raise OptionError(
                f"{family} '{name}' has no parameter '{key}'{nearest(key, known) or '.'} Parameters: {possible}"
            )


def _written(value: Any) -> str:
    if isinstance(value, str) and any(mark in value for mark in ",+"):
        return f"({value})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(label: str, text: str, hint: Any) -> Any:
    """Read ``text`` as the annotated type of a hyper-parameter."""
    choices = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        written = {str(choice): choice for choice in choices}
        if text not in written:
            raise OptionError(f"{label}={text}: expected one of {', '.join(written)}{nearest(text, written)}")
        return written[text]
    if origin in (types.UnionType, Union):
        if text.lower() == "none" and type(None) in choices:
            return None
        return _read(label, text, next(choice for choice in choices if choice is not type(None)))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise OptionError(f"{label}={text}: expected true or false")
        return text.lower() == "true"
    if hint is str and text.startswith("(") and text.endswith(")"):
        return text[1:-1].strip()
    try:
        return float(Fraction(text)) if hint is float and "/" in text else hint(text)
    except (ValueError, ZeroDivisionError):
        raise OptionError(
            f"{label}={text}: expected {_TYPE_WORDS.get(hint, hint)}, such as {label}={_EXAMPLES.get(hint, '1')}"
        ) from None


_TYPE_WORDS = {int: "a whole number", float: "a number"}
_EXAMPLES = {int: "3", float: "0.5"}
