"""What defenses add to the time of a victim, whole batches as they are served against undefended ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from modelmoat.defenses import DEFENSES, Preparation, parse_defense
from modelmoat.victims import Victim

MOST_FREE = 1.10
"""Without a network of its own, without state."""
MOST_NETWORK = {
    "mad": 2.2,
    "misinformation:epochs=1": 2.2,
    "grad_redirection:surrogate=random": 4.0,
}
ASSERTED = ("resnet20", 256)
LARGE = 1000  # classes from which ratios are only reported
ROUNDS = {1: 40, 32: 9, 256: 11}

SHARP = Callable[[str, int], tuple[Preparation, Tensor]]
ROUND_ROBIN = Callable[..., dict[str, float]]
REPORT = Callable[[str, float, str], None]

pytestmark = pytest.mark.usefixtures("one_thread")
cells = pytest.mark.parametrize(
    ("arch", "classes", "batch"),
    [(arch, classes, batch) for arch in ("lenet", "resnet20") for classes in (10, 100, 1000) for batch in (1, 32, 256)],
)


def free() -> list[str]:
    """Defenses that need no network and keep no state."""
    methods = [cls() for cls in DEFENSES]
    names = [method.name for method in methods if not method.stateful and "training" not in method.needs]
    return [*names, "mad:surrogate=uniform", "mad_argmax:surrogate=uniform"]


@cells
def test_defenses_without_a_network(
    arch: str, classes: int, batch: int, sharp_victim: SHARP, round_robin: ROUND_ROBIN, report: REPORT
) -> None:
    found = ratios(free(), arch, classes, batch, sharp_victim, partial(round_robin, pick=min))
    worst = max(found, key=lambda spec: found[spec])
    told = ", ".join(f"{spec} {ratio:.2f}" for spec, ratio in sorted(found.items()))
    report(f"slowest defense without a network, {arch}, K = {classes}, batch {batch}: {worst}", found[worst], told)
    if (arch, batch) == ASSERTED and classes < LARGE:
        assert found[worst] <= MOST_FREE


@cells
def test_defenses_with_a_network(
    arch: str, classes: int, batch: int, sharp_victim: SHARP, round_robin: ROUND_ROBIN, report: REPORT
) -> None:
    found = ratios(list(MOST_NETWORK), arch, classes, batch, sharp_victim, round_robin)
    for spec, ratio in found.items():
        report(f"{spec}, {arch}, K = {classes}, batch {batch}", ratio, "over the undefended victim")
        if (arch, batch) == ASSERTED and classes < LARGE:
            assert ratio <= MOST_NETWORK[spec]


def ratios(
    specs: list[str], arch: str, classes: int, batch: int, sharp_victim: SHARP, round_robin: ROUND_ROBIN
) -> dict[str, float]:
    """Time of a served batch over that of an undefended one."""
    preparation, images = sharp_victim(arch, classes)
    asked = images[torch.arange(batch) % len(images)]
    undefended = Victim(preparation.predictor)
    calls: dict[str, Callable[[], object]] = {"": lambda: undefended.serve(asked)}
    for spec in specs:
        victim = Victim(preparation.predictor, defense=parse_defense(spec).prepare(preparation))
        calls[spec] = lambda victim=victim: victim.serve(asked)  # type: ignore[misc]
    seconds = round_robin(calls, rounds=ROUNDS[batch], clock=time.process_time)
    return {spec: seconds[spec] / seconds[""] for spec in specs}
