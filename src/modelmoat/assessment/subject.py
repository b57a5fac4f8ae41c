"""A victim as a user names it: its model, its own defense where it has one, and its data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from modelmoat.assessment.protection import Fitted, check_model, is_protected, load_protection, model_reference
from modelmoat.core.errors import ModelError, OptionError, RunError
from modelmoat.core.files import digest_of
from modelmoat.core.shapes import by
from modelmoat.data import Splits, load_splits
from modelmoat.defenses import Defense, Preparation
from modelmoat.models import Origin, Predictor, load_card, origin_of_file
from modelmoat.models.artifact import CARD_FILE
from modelmoat.victims import Victim, load_predictor


@dataclass(frozen=True, kw_only=True)
class SubjectSpec:
    """How a user names a victim.

    Attributes:
        victim: reference of a model or of a protected victim.
        data: reference of its data; None for the one that it was trained on.
        data_seed: seed of its splits; None for its own.
        allow_pickle: load pickled models.
        device: where it runs.
    """

    victim: str
    data: str | None = None
    data_seed: int | None = None
    allow_pickle: bool = False
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A victim and its data, loaded and checked against each other.

    Attributes:
        predictor: the undefended model; a file with a defense inside is taken as it is.
        own: the defense that it comes with; None for a bare model.
        digest: hash of all that its answers depend on.
        data: reference of its data.
        data_seed: seed of its splits.
        splits: its images.
        origin: what is known about its training; None where neither an artifact nor an exported file tells.
    """

    predictor: Predictor
    own: Fitted | None
    digest: str
    data: str
    data_seed: int
    splits: Splits
    origin: Origin | None

    @property
    def inside(self) -> str | None:
        """Spec of the defense inside its file, which cannot be taken off; None where there is none."""
        return self.origin.defense if self.origin else None

    def behind(self, defense: Defense) -> Defense:
        """A defense after the one that the victim comes with; ``none`` adds nothing."""
        if self.own is None:
            return defense
        return self.own if defense.name == "none" else self.own.behind(defense)

    def lineup(self, asked: Sequence[Defense]) -> list[Defense]:
        """The defenses to attack, each once: what was asked for, or for a protected victim what follows from it.

        A protected victim is always attacked as it is. ``none`` stands for its undefended model, and any other defense
        comes after its own.
        """
        if self.own is None:
            return list(dict.fromkeys(asked))
        bare = [defense for defense in asked if defense.name == "none"]
        further = dict.fromkeys(defense for defense in asked if defense.name != "none")
        return list(dict.fromkeys([*bare, self.own, *map(self.behind, further)]))

    def preparation(self, *, seed: int, device: str) -> Preparation:
        """What preparing a defense for this victim needs."""
        return Preparation(predictor=self.predictor, train=self.splits.train, seed=seed, device=device)


def load_subject(spec: SubjectSpec) -> Subject:
    """Load a victim with its data.

    Raises:
        ModelError: the model and the data differ in shape or classes, the model gives bad outputs, or it is not the one
            that was protected.
        OptionError: it does not say which data it was trained on, and neither does the caller.
        RunError: the data are not those that the victim was trained on.
    """
    folder, its_own_data = Path(spec.victim), spec.data is None
    protection, own = load_protection(folder) if is_protected(spec.victim) else (None, None)
    inner = model_reference(folder, protection) if protection else spec.victim
    if protection and spec.data is None:
        seed = spec.data_seed if spec.data_seed is not None else protection.data_seed
        spec = replace(spec, data=protection.data, data_seed=seed)
    origin = _origin_of(inner)
    data, seed = _data_of(replace(spec, victim=inner), origin)
    splits = load_splits(data, seed=seed)
    predictor = load_predictor(inner, allow_pickle=spec.allow_pickle, device=spec.device, input_shape=splits.test.shape)
    if protection:
        check_model(protection, predictor)
        predictor.reference = spec.victim
    _check_victim(predictor, splits, data)
    if origin and its_own_data:
        _check_same_data(origin, splits, data)
    digest = digest_of({"protection": protection.digest}) if protection else predictor.digest
    return Subject(predictor=predictor, own=own, digest=digest, data=data, data_seed=seed, splits=splits, origin=origin)


def warn_of_defense_inside(subject: Subject) -> None:
    """Say so where there is no undefended model to compare with."""
    if subject.inside:
        warnings.warn(
            f"victim '{subject.predictor.reference}' has the defense '{subject.inside}' inside, which cannot be taken off: "
            "'none' is the file as it is, and no ceiling, cost or fidelity is measured against the undefended model; "
            "fix: name the victim that it was exported from",
            stacklevel=3,
        )


def load_victim(reference: str, *, allow_pickle: bool = False, device: str = "cpu") -> Victim:
    """A victim by reference, behind the defense that it comes with; any model, or a folder of ``modelmoat protect``.

    Raises:
        UnknownReference: the reference names nothing.
        ModelError: a file is missing, damaged or changed.
    """
    if not is_protected(reference):
        return Victim(load_predictor(reference, allow_pickle=allow_pickle, device=device))
    folder = Path(reference)
    protection, own = load_protection(folder)
    predictor = load_predictor(model_reference(folder, protection), allow_pickle=allow_pickle, device=device)
    check_model(protection, predictor)
    predictor.reference = reference
    return Victim(predictor, defense=own.method.restore(predictor, own.tensors, device=device))


def _origin_of(reference: str) -> Origin | None:
    path = Path(reference.partition(",")[0])
    if (path / CARD_FILE).is_file():
        return Origin.of(load_card(path))
    file = path.expanduser()
    return origin_of_file(file) if file.suffix.lower() == ".onnx" and file.is_file() else None


def _data_of(spec: SubjectSpec, origin: Origin | None) -> tuple[str, int]:
    seed = spec.data_seed if spec.data_seed is not None else (origin.data_seed if origin else 0)
    if spec.data is not None:
        return spec.data, seed
    if origin and origin.data:
        return origin.data, seed
    with suppress(ModelError):  # a victim that is not there is the first thing to say; the rest can wait for its data
        load_predictor(spec.victim, allow_pickle=spec.allow_pickle)
    raise OptionError(
        f"victim '{spec.victim}' does not say which data it was trained on; fix: add --data REF with its test images"
    )


def _check_victim(predictor: Predictor, splits: Splits, data: str) -> None:
    if predictor.input_shape and predictor.input_shape != splits.test.shape:
        raise ModelError(
            f"victim '{predictor.reference}' takes images of {by(predictor.input_shape)}, '{data}' has {by(splits.test.shape)} "
            "(channels x height x width); fix: add size= or grey to --data, or choose its own data"
        )
    if predictor.num_classes != splits.test.num_classes:
        raise ModelError(
            f"victim '{predictor.reference}' answers with {predictor.num_classes} classes, '{data}' has "
            f"{splits.test.num_classes}; fix: choose the data that it was trained on"
        )


def _check_same_data(origin: Origin, splits: Splits, data: str) -> None:
    for name, images in (("train", splits.train), ("test", splits.test)):
        expected = origin.data_digests.get(name)
        if expected and expected != images.digest:
            raise RunError(
                f"'{data}' has changed since the victim was trained: its {name} images hash to {images.digest}, not "
                f"{expected}; fix: restore the data, or name other test data with --data"
            )
