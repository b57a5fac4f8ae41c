"""How the fields of a study file are read, so that each mistake is told where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from modelmoat.assessment.spec import LARGEST_SEED
from modelmoat.core.errors import ModelmoatError, OptionError, nearest, unknown
from modelmoat.core.hardware import gpu_number
from modelmoat.models import arch_names
from modelmoat.training import FitSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

T = TypeVar("T")


def told(read: Callable[[Any], T]) -> Callable[[Any], T]:
    """Let pydantic, which knows the place, tell the errors of a reader."""

    def reader(value: Any) -> T:
        try:
            return read(value)
        except ModelmoatError as error:
            raise ValueError(str(error)) from error

    return reader


def method(parse: Callable[[str], T], example: str) -> BeforeValidator:
    """A field that is written as text, such as a method with its parameters; ``example`` is one that can be read."""

    def read(value: Any) -> Any:
        if value is None or isinstance(value, (int, float, list, dict)):
            raise OptionError(f"expected text such as '{example}', got {'nothing' if value is None else repr(value)}")
        return parse(value) if isinstance(value, str) else value

    return BeforeValidator(told(read))


def fit_over(defaults: FitSettings) -> WrapValidator:
    """Settings of a training, where what is left out is as in ``defaults``."""
    base = asdict(defaults)

    def read(value: Any, handler: Callable[[Any], FitSettings]) -> FitSettings:
        if isinstance(value, FitSettings):
            return value
        if isinstance(value, dict):
            _check_keys(value, tuple(base))
        try:
            return handler({**base, **value} if isinstance(value, dict) else value)
        except ModelmoatError as error:
            key = str(error).partition("=")[0]
            raise at_key(key, str(error)) from error

    return WrapValidator(read)


def at_key(key: str, words: str) -> PydanticCustomError:
    """An error about one key of the mapping that is being read."""
    return PydanticCustomError("at_key", "{words}", {"words": words, "key": key})


def _check_keys(value: dict[Any, Any], known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            raise at_key(str(key), f"unknown key{nearest(str(key), known) or '.'} Known: {', '.join(known)}")


def _read_arch(name: str) -> str:
    if name not in arch_names():
        raise unknown("architecture", name, arch_names())
    return name


def _read_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}': expected letters, digits and the marks - _ . for the name of a folder")
    return name


def _read_device(name: str) -> str:
    gpu_number(name)  # refuses other names
    return name


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    doubles = [value for position, value in enumerate(values) if value in values[:position]]
    if doubles:
        raise ValueError(f"{doubles[0]} is there twice")
    return values


Arch = Annotated[str, AfterValidator(told(_read_arch))]
Device = Annotated[str, AfterValidator(told(_read_device))]
Name = Annotated[str, AfterValidator(_read_name)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...], Field(min_length=1), AfterValidator(_each_once)
]
Budgets = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), AfterValidator(_each_once)]


class Part(BaseModel):
    """A mapping of the study file; unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    file_keys: ClassVar[tuple[str, ...]] = ()
    """Further keys that the file may have; other keys take their place before it is read."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            _check_keys(value, (*cls.model_fields, *cls.file_keys))
        return value
