"""How long a query takes, with and without a defense."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from modelmoat.assessment.subject import SubjectSpec, load_subject, warn_of_defense_inside
from modelmoat.core.errors import DataError
from modelmoat.data import ImageSet
from modelmoat.defenses import Defense
from modelmoat.training import as_float
from modelmoat.victims import Victim

BATCHES = (1, 32, 256)
_FEWEST, _MOST = 3, 100
_SECONDS, _QUICK_SECONDS = 1.0, 0.3  # for each batch size


@dataclass(frozen=True)
class Latency:
    """Time of a defended query at one batch size, beside the undefended one measured in turns with it.

    Attributes:
        defense: its spec.
        device: where the victim ran.
        batch: images per call.
        ms: median milliseconds per query.
        ratio: over the undefended victim.
    """

    defense: str
    device: str
    batch: int
    ms: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class LatencySpec:
    """What to time.

    Attributes:
        subject: the victim and its data; its own defense counts as a part of each.
        defenses: what to put in front of it.
        batches: images per call.
        seed: of every draw when a defense is prepared.
    """

    subject: SubjectSpec
    defenses: Sequence[Defense]
    batches: Sequence[int] = BATCHES
    seed: int = 0


def measure_latencies(spec: LatencySpec) -> list[Latency]:
    """Time each defense at each batch size on test images; the undefended victim comes first, at a ratio of 1.

    Raises:
        UsageError: the victim, its data or a defense cannot be used.
    """
    subject = load_subject(spec.subject)
    warn_of_defense_inside(subject)
    undefended = Victim(subject.predictor)
    found = []
    for defense in subject.lineup(spec.defenses):
        if defense.name == "none":
            continue
        ready = defense.prepare(subject.preparation(seed=spec.seed, device=spec.subject.device))
        found.append(time_victim(Victim(subject.predictor, defense=ready), subject.splits.test, spec.batches))
    bare = time_victim(undefended, subject.splits.test, spec.batches)
    return [row for rows in ([Latency("none", r.device, r.batch, r.ms, 1.0) for r in bare], *found) for row in rows]


def time_victim(
    victim: Victim, images: ImageSet, batches: Sequence[int] = BATCHES, *, quick: bool = False
) -> list[Latency]:
    """Time a victim and its undefended model in turns; a state of the defense is left as it is.

    Args:
        victim: as deployed.
        images: what to ask; repeated where there are fewer than a batch needs.
        batches: images per call.
        quick: time slow calls once, and warm up in the first batch size only.

    Raises:
        DataError: no images.
    """
    if not len(images):
        raise DataError("no images to time answers on; expected at least one; fix: name data with test images")
    defended = Victim(victim.predictor, defense=copy.deepcopy(victim.defense), output=victim.output)
    undefended = Victim(victim.predictor, output=victim.output)
    spec = victim.defense.spec if victim.defense else "none"
    rows = []
    for number, size in enumerate(batches):
        inputs = as_float(images.batch(torch.arange(size) % len(images)))
        if number == 0 or not quick:
            defended.serve(inputs)
            undefended.serve(inputs)
        fewest, seconds = (1, _QUICK_SECONDS) if quick else (_FEWEST, _SECONDS)
        slow, plain = _in_turns(defended, undefended, inputs, fewest, seconds)
        rows.append(Latency(spec, str(victim.predictor.device), size, 1000 * slow / size, slow / plain))
    return rows


def _in_turns(first: Victim, second: Victim, inputs: Tensor, fewest: int, seconds: float) -> tuple[float, float]:
    """Median seconds of each on the same inputs."""
    pairs: list[tuple[float, float]] = []
    spent = 0.0
    while len(pairs) < fewest or (spent < seconds and len(pairs) < _MOST):
        pair = (_seconds(lambda: first.serve(inputs)), _seconds(lambda: second.serve(inputs)))
        pairs.append(pair)
        spent += sum(pair)
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def _seconds(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
