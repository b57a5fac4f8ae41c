"""Export a victim, and check the file on real images before it is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelmoat.assessment import Subject, SubjectSpec, load_subject
from modelmoat.core.errors import ModelError, require
from modelmoat.core.files import atomic_path
from modelmoat.defenses import Defense
from modelmoat.export.served import Served, check_exportable, float_network, int8_network, quantized_folder
from modelmoat.metrics import agreement, l1_distances, top1_accuracy
from modelmoat.models import Origin, Predictor, load_model
from modelmoat.models.onnx_predictor import OnnxPredictor
from modelmoat.models.onnx_writer import write_onnx
from modelmoat.models.request import Request
from modelmoat.quantization.latency import latency
from modelmoat.training import as_float
from modelmoat.victims import Victim

_STAGES = ("load", "fit the defense", "quantize", "write", "check", "time")
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What to export, and what the file must hold to.

    Attributes:
        subject: the victim and its data.
        defense: after the one that the victim comes with; fitted on its training images.
        int8: int8 weights and activations.
        calibration_images: training images that set the ranges of activations, where the victim is not int8 itself.
        images: test images to check answers on, at most.
        min_agreement: least share of them with the victim's top-1; None for 1 in float32 and 0.99 in int8.
        seed: of every draw when the defense is prepared, and of calibration.
    """

    subject: SubjectSpec
    defense: Defense
    int8: bool = False
    calibration_images: int = 1024
    images: int = 2000
    min_agreement: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.calibration_images >= 1,
            f"calibration_images={self.calibration_images}: expected at least 1, such as 1024",
        )
        require(self.images >= 1, f"images={self.images}: expected at least 1")
        require(
            self.min_agreement is None or 0 <= self.min_agreement <= 1,
            f"min_agreement={self.min_agreement}: expected a share in [0, 1]",
        )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of an export; shares and distances are those on test images.

    Attributes:
        path: the file.
        size: in bytes.
        digest: hash of the file.
        defense: spec of the defense in it; ``none`` for none.
        int8: whether it multiplies integers.
        data: reference of the victim's data.
        data_seed: seed of its splits.
        arch: its architecture.
        images: how many images answers were checked on.
        agreement: share of images with the victim's own top-1.
        mean_l1: mean L1 distance of answers to the victim's own.
        accuracy: of the file's answers.
        victim_accuracy: of the victim's own answers.
        latency_ms: milliseconds of an undisturbed call, by who answers and batch size.
    """

    path: Path
    size: int
    digest: str
    defense: str
    int8: bool
    data: str
    data_seed: int
    arch: str
    images: int
    agreement: float
    mean_l1: float
    accuracy: float
    victim_accuracy: float
    latency_ms: dict[str, float]


def export(spec: ExportSpec, out: Path, *, tell: Tell | None = None) -> Exported:
    """Write a victim with its defense as one ONNX file, which is there only once its answers have been checked.

    Raises:
        UsageError: the victim, its data or the defense cannot be used.
        OptionError: a defense that keeps state, or that a graph cannot hold.
        ModelError: no torch network; layers that cannot be quantized; an operator that ONNX lacks; or answers too far
            from the victim's own.
        RunError: the file cannot be written.
    """
    require(
        out.suffix == ".onnx", f"--out {out}: expected a file that ends in .onnx; fix: --out {out.with_suffix('.onnx')}"
    )
    say = _stages(tell)
    say()
    subject = load_subject(spec.subject)
    defense = _after_its_own(subject, spec.defense)
    check_exportable(defense)
    say()
    ready = defense.prepare(subject.preparation(seed=spec.seed, device="cpu"))
    say()
    folder = quantized_folder(spec.subject.victim)
    int8 = spec.int8 or folder is not None
    network = (
        int8_network(subject, folder, images=spec.calibration_images, seed=spec.seed)
        if int8
        else float_network(subject)
    )
    served = Served(network, subject.predictor.outputs if folder is None else "logits", ready)
    say()
    with atomic_path(out) as temporary:
        digest = write_onnx(
            temporary,
            served,
            input_shape=subject.splits.test.shape,
            outputs="probabilities",
            class_names=subject.predictor.class_names,
            label=f"'{spec.subject.victim}' behind '{defense.spec}'",
            origin=_origin(subject, defense),
        )
        say()
        predictor = OnnxPredictor(temporary, Request(reference=str(out)))
        victim = Victim(subject.predictor, defense=ready)
        limit = spec.min_agreement if spec.min_agreement is not None else (0.99 if int8 else 1.0)
        facts = _compared(subject, victim, predictor, spec.images, limit)
        say()
        times = _latency(victim, predictor, subject)
        size = temporary.stat().st_size
    if int8:
        times |= _by_openvino(out, subject)
    return Exported(
        path=out,
        size=size,
        digest=digest,
        defense=defense.spec,
        int8=int8,
        data=subject.data,
        data_seed=subject.data_seed,
        arch=subject.predictor.arch,
        latency_ms=times,
        **facts,
    )


def _after_its_own(subject: Subject, defense: Defense) -> Defense:
    """The defense that a victim comes with, and the further one after it."""
    if subject.own is None:
        return defense
    return subject.own if defense.name == "none" else subject.own.behind(defense)


def _origin(subject: Subject, defense: Defense) -> Origin:
    """What the file says about the victim, so that it can be used without the folder that it came from."""
    known, splits = subject.origin, subject.splits
    digests = {"train": splits.train.digest, "test": splits.test.digest}
    if known and "ood" in known.data_digests:
        digests["ood"] = known.data_digests["ood"]
    return Origin(
        arch=subject.predictor.arch,
        recipe=subject.predictor.recipe,
        data=subject.data,
        data_seed=subject.data_seed,
        data_digests=digests,
        ood=known.ood if known else None,
        defense=None if defense.name == "none" else defense.spec,
    )


def _stages(tell: Tell | None) -> Callable[[], None]:
    names = iter(enumerate(_STAGES))

    def say() -> None:
        number, name = next(names)
        if tell:
            tell(name, number, len(_STAGES))

    return say


def _compared(subject: Subject, victim: Victim, predictor: Predictor, most: int, limit: float) -> dict[str, Any]:
    """Answers of file and victim to test images; raises `ModelError` where they are not close enough."""
    test = subject.splits.test
    rows = torch.arange(min(most, len(test)))
    inputs, labels = as_float(test.batch(rows)), test.labels[rows]
    own, theirs = victim.serve(inputs, "export").values, predictor.predict(inputs)
    share = float(agreement(own, theirs).double().mean())
    if share < limit:
        raise ModelError(
            f"the file gives the victim's top-1 on {share:.2%} of {len(rows):,} test images; expected at least {limit:.2%}; "
            f"fix: {_fix(limit)}"
        )
    return {
        "images": len(rows),
        "agreement": share,
        "mean_l1": float(l1_distances(own, theirs).mean()),
        "accuracy": top1_accuracy(theirs, labels),
        "victim_accuracy": top1_accuracy(own, labels),
    }


def _fix(limit: float) -> str:
    if limit == 1:
        return "--min-agreement 0.999, where a defense that rounds turns the last digit of float32 into another answer"
    return "train the victim with qat, export it in float32, or lower --min-agreement"


def _latency(victim: Victim, predictor: Predictor, subject: Subject) -> dict[str, float]:
    def answer(batch: Tensor) -> object:
        return victim.serve(batch, "export")

    return latency({"victim": answer, "file": predictor.predict}, subject.splits.test)


def _by_openvino(path: Path, subject: Subject) -> dict[str, float]:
    """The runtime that is fastest with integers, where it is installed."""
    with suppress(ModelError):
        return latency({"file by openvino": load_model(f"{path},runtime=openvino").predict}, subject.splits.test)
    return {}
