"""A study as a value: what to run, and which claims to hold against what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, field_serializer, model_validator
from pydantic_core import ErrorDetails

from modelmoat.assessment.suites import find_suite
from modelmoat.attacks import Attack, parse_attack
from modelmoat.attacks.thief import CLONE_FIT
from modelmoat.core.errors import ModelmoatError
from modelmoat.defenses import Defense, UtilityBudget, parse_defense
from modelmoat.recipes import Recipe, parse_recipe
from modelmoat.studies.document import EXTENDS, GRID, Document, read_document
from modelmoat.studies.expectation import Expectation
from modelmoat.studies.fields import Arch, Budgets, Device, Name, Part, Seeds, at_key, fit_over, method
from modelmoat.studies.grid import with_grids
from modelmoat.training import FitSettings
from modelmoat.training.evasion import Evasion, parse_evasion
from modelmoat.victims import OutputFormat

_MAPPING = "a mapping of keys to values"
_KINDS = {
    **dict.fromkeys(("model_type", "dict_type", "dataclass_type"), _MAPPING),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "tuple_type": "a list",
    "string_type": "text",
}
"""What is expected, by pydantic's kinds of error, whose own words are those of Python."""
_VICTIM_FIT = FitSettings(lr=0.05)


class Limits(Part):
    """What a calibrated defense may cost its users, on validation images of the victim."""

    max_l1: float | None = Field(default=None, ge=0, le=2, description="mean L1 distance of answers")
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1, description="a share")
    step: str | None = Field(default=None, description="in a chain with several dials, the step to turn")
    images: int = Field(default=2000, ge=1, description="validation images that costs are measured on, at most")

    @property
    def budget(self) -> UtilityBudget:
        """The limits as calibration takes them."""
        return UtilityBudget(max_accuracy_drop=self.max_accuracy_drop, max_l1=self.max_l1)

    @model_validator(mode="after")
    def _some_limit(self) -> Limits:
        if not self.budget.limited:
            raise ValueError("no limit given; fix: max_l1: 0.5 or max_accuracy_drop: 0.01")
        return self


class DefensePlan(Part):
    """One defense, with its parameters as given or calibrated to limits."""

    file_keys: ClassVar[tuple[str, ...]] = (GRID,)

    defense: Annotated[Defense, method(parse_defense, "rounding:decimals=1")]
    calibrate: Limits | None = None
    name: str = Field(default="", description="what tables call it; made from the rest if left out")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"defense": value} if isinstance(value, (str, Defense)) else value

    @model_validator(mode="after")
    def _with_name(self) -> DefensePlan:
        if not self.name:
            limits = f" ({self.calibrate.budget})" if self.calibrate else ""
            object.__setattr__(self, "name", f"{self.defense.spec}{limits}")
        return self

    @field_serializer("defense")
    def _written(self, defense: Defense) -> str:
        return defense.spec


class VictimPlan(Part):
    """One way to train a victim."""

    data: str
    data_seed: int = Field(default=0, ge=0)
    arch: Arch
    recipe: Annotated[Recipe, method(parse_recipe, "standard")]
    fit: Annotated[FitSettings, fit_over(_VICTIM_FIT)] = _VICTIM_FIT
    seeds: Seeds | None = Field(
        default=None,
        description="of its training; each victim then meets all seeds of the study. Left out, every seed of the study "
        "trains a victim of its own and attacks that one",
    )
    defenses: tuple[DefensePlan, ...] | None = Field(default=None, description="in place of the study's")

    @field_serializer("recipe")
    def _written(self, recipe: Recipe) -> str:
        return recipe.spec


class ClonePlan(Part):
    """How clones are trained."""

    arch: Arch | None = None
    init: str | None = None
    fit: Annotated[FitSettings, fit_over(CLONE_FIT)] = CLONE_FIT


class Claim(Part):
    """A sentence of a paper and a test of it.

    ``measure`` is SQL over the table `records`. Each row of its result is one repetition (a seed); the last column is
    the value.
    """

    text: str
    source: str
    published: str = Field(description="what the paper says, a number or words", coerce_numbers_to_str=True)
    measure: str
    expect: Annotated[Expectation, method(Expectation.parse, "> 0.1")]
    note: str = Field(default="", description="what differs from the paper")

    @field_serializer("expect")
    def _written(self, expect: Expectation) -> str:
        return str(expect)


class Study(Part):
    """Victims x defenses x attackers x budgets x seeds, and the claims to test."""

    file_keys: ClassVar[tuple[str, ...]] = (EXTENDS,)

    study: Name
    about: str = ""
    victims: dict[Name, VictimPlan] = Field(min_length=1)
    defenses: Annotated[tuple[DefensePlan, ...], Field(min_length=1)]
    attacks: tuple[Annotated[Attack, method(parse_attack, "knockoff")], ...] = ()
    suite: str | None = None
    pool: str
    drop_overlap: bool = False
    budgets: Budgets
    seeds: Seeds = (0,)
    output: Annotated[OutputFormat, method(OutputFormat.parse, "label")] = OutputFormat()
    clone: ClonePlan = ClonePlan()
    accounts: int = Field(default=1, ge=1)
    benign_share: float = Field(default=0.0, ge=0, lt=1)
    device: Device = "cpu"
    robust: Annotated[Evasion, method(parse_evasion, "pgd")] | None = None
    robust_images: int = Field(default=1000, ge=1)
    target_fidelity: float = Field(default=0.7, gt=0, le=1)
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        if not self.attacks and self.suite is None:
            raise at_key("study", "no attacker given; fix: attacks: [knockoff] or suite: quick")
        if self.suite is not None:
            try:
                find_suite(self.suite)
            except ModelmoatError as error:
                raise at_key("suite", str(error)) from error
        for attack in self.attacks:
            if self.output.kind not in attack.outputs:
                possible = ", ".join(sorted(attack.outputs))
                raise at_key(
                    "attacks", f"{attack.spec} cannot use answers of kind '{self.output}'; it can use {possible}"
                )
        self._check_names()
        return self

    def _check_names(self) -> None:
        _check_twins("victims", {name: _identity(plan, "defenses", "seeds") for name, plan in self.victims.items()})
        for name in self.victims:
            plans = self.defenses_of(name)
            doubles = [
                plan.name for position, plan in enumerate(plans) if plan.name in {one.name for one in plans[:position]}
            ]
            if doubles:
                raise at_key("defenses", f"'{doubles[0]}' is there twice; fix: give each a name of its own")
            _check_twins("defenses", {plan.name: _identity(plan, "name") for plan in plans})

    def defenses_of(self, victim: str) -> tuple[DefensePlan, ...]:
        """The defenses that a victim gets."""
        own = self.victims[victim].defenses
        return self.defenses if own is None else own

    @field_serializer("attacks")
    def _attacks_written(self, attacks: tuple[Attack, ...]) -> list[str]:
        return [attack.spec for attack in attacks]

    @field_serializer("output")
    def _output_written(self, output: OutputFormat) -> str:
        return str(output)

    @field_serializer("robust")
    def _robust_written(self, robust: Evasion | None) -> str | None:
        return robust.spec if robust else None


def _identity(part: Part, *names: str) -> str:
    """All that makes a part what it is, but what only names or places it."""
    return part.model_dump_json(exclude=set(names))


def _check_twins(key: str, identities: dict[str, str]) -> None:
    first: dict[str, str] = {}
    for name, identity in identities.items():
        same = first.setdefault(identity, name)
        if same != name:
            raise at_key(key, f"{same} and {name} are the same; fix: change or remove one")


def load_study(path: Path) -> tuple[Study, Document]:
    """Read a study file.

    Raises:
        UnknownReference: there is no such file.
        OptionError: it is no study; the message has the line and the key.
    """
    document = with_grids(read_document(path))
    try:
        return Study.model_validate(document.value), document
    except ValidationError as error:
        first, *others = error.errors()
        key = first.get("ctx", {}).get("key")
        place = [*(step for step in first["loc"] if step != "[key]"), *([key] if key else [])]
        more = f" (and {len(others)} more)" if others else ""
        raise document.error(place, _words(first) + more) from error


def _words(error: ErrorDetails) -> str:
    """What is wrong in a user's words, with the value where pydantic leaves it out."""
    words, given = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] in ("value_error", "at_key", "missing"):
        return words
    kind = _KINDS.get(error["type"])
    if kind:
        return f"expected {kind}, got {'nothing' if given is None else repr(given)}"
    return f"{words}, got {given!r}" if isinstance(given, (str, int, float)) else words
