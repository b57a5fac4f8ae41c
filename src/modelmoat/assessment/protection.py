"""A model and its fitted defense in one folder, which loads as a victim like any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from modelmoat import __version__
from modelmoat.core.errors import ModelError
from modelmoat.core.files import atomic_path, digest_of, disk_errors, write_text
from modelmoat.core.runs import now
from modelmoat.defenses import Chain, Defense, Preparation, parse_defense, saved_state
from modelmoat.models import Predictor
from modelmoat.models.digests import bytes_digest, unreadable
from modelmoat.victims import Responder

PROTECTION_FILE = "protection.json"
STATE_FILE = "defense.safetensors"
MODEL_FOLDER = "model"


class Calibration(BaseModel):
    """How a defense was set to a utility budget; accuracies and shares in [0, 1], L1 in [0, 2]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_accuracy_drop: float | None
    max_l1: float | None
    parameter: str = Field(description="what was turned, such as mad:epsilon")
    value: float = Field(description="where it was left")


class Protection(BaseModel):
    """What protects a model; costs are those on the validation images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    model: str = Field(description="reference of the undefended model")
    inside: bool = Field(description="whether that reference is relative to this folder")
    model_digest: str = Field(description="hash of its weights or file")
    defense: str = Field(description="spec of the defense")
    state_digest: str = Field(description="hash of its tensors")
    data: str = Field(description="reference of the victim's data")
    data_seed: int
    seed: int = Field(description="of every draw when the defense was prepared")
    calibration: Calibration | None
    calibration_size: int = Field(description="validation images that costs were measured on")
    clean_accuracy: float
    defended_accuracy: float
    mean_l1: float
    package_version: str = __version__
    created: str = Field(default_factory=now, description="UTC, ISO 8601")

    @property
    def digest(self) -> str:
        """Hash of all that answers depend on beside the model."""
        return digest_of({"defense": self.defense, "state": self.state_digest, "model": self.model_digest})


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Fitted(Defense):
    """A defense that was fitted earlier: preparing it restores what was saved."""

    method: Defense
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    name: ClassVar[str] = "fitted"
    paper: ClassVar[str] = "-"

    def __post_init__(self) -> None:
        method = self.method
        self._declare(
            keeps_top1=method.keeps_top1,
            deterministic=method.deterministic,
            stateful=method.stateful,
            exportable=method.exportable,
        )
        object.__setattr__(self, "needs", method.needs - {"training"})

    @cached_property
    def spec(self) -> str:
        """The spec of the fitted defense."""
        return self.method.spec

    @property
    def l1_bound(self) -> float:
        """That of the fitted defense."""
        return self.method.l1_bound

    def foreign(self, shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Those of the fitted defense."""
        return self.method.foreign(shape)

    def prepare(self, preparation: Preparation) -> Responder:
        """The defense as it was saved; raises `ModelError` for another victim."""
        return self.method.restore(preparation.predictor, self.tensors, device=preparation.device)

    def behind(self, further: Defense) -> Defense:
        """This defense with a further one after it."""
        return Chain(steps=(self, *(further.steps if isinstance(further, Chain) else (further,))))


def is_protected(reference: str) -> bool:
    """Whether a victim's reference names a folder that `save_protection` wrote."""
    return (Path(reference) / PROTECTION_FILE).is_file()


def save_protection(folder: Path, ready: Responder, **facts: Any) -> Protection:
    """Write the tensors of a ready defense, then the page that names their hash."""
    data = dump_tensors(saved_state(ready))
    protection = Protection(defense=ready.spec, state_digest=bytes_digest(data), **facts)
    with atomic_path(folder / STATE_FILE) as temporary:
        temporary.write_bytes(data)
    write_text(folder / PROTECTION_FILE, protection.model_dump_json(indent=2) + "\n")
    return protection


def load_protection(folder: Path) -> tuple[Protection, Fitted]:
    """The page and the fitted defense of a protected victim.

    Raises:
        ModelError: a file is missing, damaged or changed.
    """
    path, state = folder / PROTECTION_FILE, folder / STATE_FILE
    try:
        protection = Protection.model_validate_json(path.read_bytes())
        data = state.read_bytes()
    except OSError as error:
        raise unreadable(path if not path.is_file() else state, error) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "page"
        raise ModelError(
            f"{path}: {where}: {first['msg']}; this version reads schema 1; fix: protect it again"
        ) from error
    if bytes_digest(data) != protection.state_digest:
        raise ModelError(
            f"{state} has hash {bytes_digest(data)}, but {PROTECTION_FILE} says {protection.state_digest}: it was cut "
            "short or changed; fix: copy both files again, or protect the model again"
        )
    try:
        tensors = read_tensors(data)
    except SafetensorError as error:
        raise ModelError(f"{state} is not a safetensors file: {error}; fix: protect the model again") from error
    return protection, Fitted(method=parse_defense(protection.defense), tensors=tensors)


def model_reference(folder: Path, protection: Protection) -> str:
    """Reference of the undefended model of a protected victim."""
    return str(folder / protection.model) if protection.inside else protection.model


def keep_model(reference: str, folder: Path) -> tuple[str, bool]:
    """Copy the files of a model into a folder.

    Returns:
        The reference of the copy, relative to ``folder``, and True; or the reference as it is and False where the model
        has no files of its own (``python:``, ``timm:``).
    """
    place, comma, options = reference.partition(",")
    source, target = Path(place).expanduser(), folder / MODEL_FOLDER
    if not source.exists():
        return reference, False
    with disk_errors(target):
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "checkpoint*"))
            return f"{MODEL_FOLDER}{comma}{options}", True
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / source.name)
    return f"{MODEL_FOLDER}/{source.name}{comma}{options}", True


def check_model(protection: Protection, predictor: Predictor) -> None:
    """Raise `ModelError` where the model is no longer the one that was protected."""
    if predictor.digest != protection.model_digest:
        raise ModelError(
            f"model '{predictor.reference}' has hash {predictor.digest}; it was protected as {protection.model_digest}; "
            "fix: restore the model, or protect it again"
        )
