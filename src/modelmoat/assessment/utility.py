"""What a defense costs its users, and what a thief got."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from modelmoat.attacks import Theft
from modelmoat.core.records import pack_bits
from modelmoat.data import ImageSet
from modelmoat.metrics import agreement, calibration_error, l1_distances, top1_accuracy
from modelmoat.models import Predictor
from modelmoat.training import predict_logits
from modelmoat.victims import Victim

_BATCH = 1024
_TIMED_BATCH = 256
_TIMED_REPEATS = 7


@dataclass(frozen=True)
class Utility:
    """What the defense changes in answers to the test set; shares in [0, 1], L1 in [0, 2].

    It is compared with the undefended victim behind the same output format: a label is no fault of the defense.
    """

    victim_accuracy: float
    defended_accuracy: float
    mean_l1: float
    max_l1: float
    top1_changed: float
    calibration_error: float
    defended_calibration_error: float
    latency_ratio: float
    served: Tensor


def measure_utility(victim: Victim, test: ImageSet, clean: Tensor) -> Utility:
    """Ask the test set as a benign user, of a copy of the victim in the state that it is in.

    The victim itself stays as it is: what was measured must not change what is measured next.
    """
    victim = bystander(victim)
    served = served_rows(victim, test)
    clean = victim.output.apply(clean)
    distances = l1_distances(clean, served)
    return Utility(
        victim_accuracy=top1_accuracy(clean, test.labels),
        defended_accuracy=top1_accuracy(served, test.labels),
        mean_l1=float(distances.mean()),
        max_l1=float(distances.max()),
        top1_changed=float((~agreement(clean, served)).double().mean()),
        calibration_error=calibration_error(clean, test.labels),
        defended_calibration_error=calibration_error(served, test.labels),
        latency_ratio=latency_ratio(victim, test),
        served=served,
    )


def bystander(victim: Victim) -> Victim:
    """The same model and output format behind a copy of the defense with its state; no ledger is shared."""
    return Victim(victim.predictor, defense=copy.deepcopy(victim.defense), output=victim.output)


def served_rows(victim: Victim, images: ImageSet) -> Tensor:
    """What a benign user gets for all images, [N, K]; not counted."""
    batches = torch.arange(len(images)).split(_BATCH)
    return torch.cat([victim.serve(images.batch(rows)).values for rows in batches])


def clean_rows(predictor: Predictor, images: ImageSet) -> Tensor:
    """Undefended answers to all images, float32 [N, K]."""
    victim = Victim(predictor)
    return torch.cat([victim.clean(images.batch(rows)) for rows in torch.arange(len(images)).split(_BATCH)])


def latency_ratio(victim: Victim, test: ImageSet) -> float:
    """Median time of a defended batch over that of an undefended one, both measured in turns."""
    batch = test.batch(torch.arange(min(_TIMED_BATCH, len(test))))
    undefended = Victim(victim.predictor)
    pairs = [
        (_seconds(lambda: victim.serve(batch)), _seconds(lambda: undefended.serve(batch)))
        for _ in range(_TIMED_REPEATS)
    ]
    return median(defended for defended, _ in pairs) / median(plain for _, plain in pairs)


@dataclass(frozen=True)
class Evaluation:
    """How good a clone is on the test set; shares in [0, 1]."""

    clone_accuracy: float
    fidelity: float
    served_fidelity: float
    relative_accuracy: float
    agreement: str = field(repr=False)


def evaluate(theft: Theft, victim: Victim, test: ImageSet) -> Evaluation:
    """How good a stolen clone is, against the labels, the undefended victim and the served answers.

    Args:
        theft: with its clone.
        victim: that it was stolen from.
        test: images that neither was trained on.
    """
    return evaluate_theft(theft, test, clean_rows(victim.predictor, test), served_rows(bystander(victim), test))


def evaluate_theft(theft: Theft, test: ImageSet, clean: Tensor, served: Tensor) -> Evaluation:
    """Compare a clone with the labels, the undefended victim and the served answers."""
    if theft.clone is None:
        raise ValueError(f"no clone was trained at budget {theft.budget}")
    scores = predict_logits(theft.clone, test)
    agrees = agreement(scores, clean)
    right = top1_accuracy(scores, test.labels)
    victim = top1_accuracy(clean, test.labels)
    return Evaluation(
        clone_accuracy=right,
        fidelity=float(agrees.double().mean()),
        served_fidelity=float(agreement(scores, served).double().mean()),
        relative_accuracy=right / victim if victim else 0.0,
        agreement=pack_bits(agrees.tolist()),
    )


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
