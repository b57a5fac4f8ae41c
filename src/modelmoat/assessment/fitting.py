"""Fit a defense to a model, set it to a utility budget, and write both as one victim."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from modelmoat.assessment.protection import (
    PROTECTION_FILE,
    Calibration,
    Protection,
    is_protected,
    keep_model,
    load_protection,
    save_protection,
)
from modelmoat.assessment.subject import Subject, SubjectSpec, load_subject, warn_of_defense_inside
from modelmoat.core.errors import OptionError, RunError, require
from modelmoat.core.locks import locked
from modelmoat.defenses import Cost, Defense, UtilityBudget, calibrate, measure_cost
from modelmoat.training import as_float
from modelmoat.victims import CleanAnswers, Responder, clean_answers

_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class ProtectSpec:
    """What to protect, with what, at which cost.

    Attributes:
        subject: the model and its data.
        defense: fitted on the training images.
        budget: what its users may lose, on validation images.
        step: in a chain with several dials, the name of the step to turn.
        images: validation images to measure costs on, at most.
        seed: of every draw when the defense is prepared.
    """

    subject: SubjectSpec
    defense: Defense
    budget: UtilityBudget = field(default_factory=UtilityBudget)
    step: str | None = None
    images: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.images >= 1, f"images={self.images}: expected at least 1")
        require(self.seed >= 0, f"seed={self.seed}: expected 0 or more")
        require(
            self.step is None or self.budget.limited,
            f"step={self.step}: nothing to calibrate without a limit; fix: add --max-l1 or --max-accuracy-drop",
        )
        if is_protected(self.subject.victim):
            own = load_protection(Path(self.subject.victim))[0]
            raise OptionError(
                f"'{self.subject.victim}' is already protected by '{own.defense}'; fix: protect its model with the chain "
                f"'{own.defense}+{self.defense.spec}'"
            )


def protect(spec: ProtectSpec, out: Path) -> Protection:
    """Prepare a defense, calibrate it where there is a limit, and write one folder with model and defense.

    Raises:
        UsageError: the victim, its data or the defense cannot be used, or no setting lies within the budget.
        RunError: the folder already holds a victim, is in use, or cannot be written.
    """
    if (out / PROTECTION_FILE).exists():
        raise RunError(f"{out} holds a protected victim already; fix: choose another --out folder, or remove this one")
    _check_place(spec.subject.victim, out)
    subject = load_subject(spec.subject)
    warn_of_defense_inside(subject)
    device = spec.subject.device
    with locked(out):
        ready = spec.defense.prepare(subject.preparation(seed=spec.seed, device=device))
        clean, labels = _validation(subject, spec.images)
        calibration, ready, cost = _fitted(spec, subject, ready, clean, labels)
        model, inside = keep_model(spec.subject.victim, out)
        return save_protection(
            out,
            ready,
            model=model,
            inside=inside,
            model_digest=subject.predictor.digest,
            data=subject.data,
            data_seed=subject.data_seed,
            seed=spec.seed,
            calibration=calibration,
            calibration_size=len(labels),
            clean_accuracy=cost.clean_accuracy,
            defended_accuracy=cost.accuracy,
            mean_l1=cost.mean_l1,
        )


def _check_place(victim: str, out: Path) -> None:
    """Refuse a folder that would hold itself."""
    source, target = Path(victim.partition(",")[0]).expanduser().resolve(), out.resolve()
    if source.exists() and (target == source or source in target.parents):
        raise OptionError(f"{out} lies in the folder of the model; fix: choose an --out folder beside '{victim}'")


def _fitted(
    spec: ProtectSpec, subject: Subject, ready: Responder, clean: list[CleanAnswers], labels: torch.Tensor
) -> tuple[Calibration | None, Responder, Cost]:
    if not spec.budget.limited:
        return None, ready, measure_cost(ready, clean, labels)
    found = calibrate(
        spec.defense,
        ready,
        subject.predictor,
        clean,
        labels,
        spec.budget,
        step=spec.step,
        device=spec.subject.device,
    )
    calibration = Calibration(
        max_accuracy_drop=spec.budget.max_accuracy_drop,
        max_l1=spec.budget.max_l1,
        parameter=found.parameter,
        value=found.value,
    )
    return calibration, found.ready, found.cost


def _validation(subject: Subject, most: int) -> tuple[list[CleanAnswers], torch.Tensor]:
    """Undefended answers to the first validation images, in batches, and their labels."""
    images = subject.splits.validation
    rows = torch.arange(min(most, len(images)))
    batches = [
        clean_answers(subject.predictor, as_float(images.batch(part)), "validation") for part in rows.split(_BATCH)
    ]
    return batches, images.labels[rows]
