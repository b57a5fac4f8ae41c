"""Speed claims, each a ratio of two things measured in turns within one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from modelmoat.core.memory import keep_freed_memory
from modelmoat.data import ImageSet
from modelmoat.defenses import Preparation
from modelmoat.models import TorchPredictor, create_network

SHAPES = {"lenet": (1, 28, 28), "resnet20": (3, 32, 32)}
TRAIN = 64  # images that defenses are prepared with
SPREAD = 4.0  # standard deviation of logits: most answers are sure of something

Timed = Callable[[], object]
Clock = Callable[[], float]


@pytest.fixture(scope="session", autouse=True)
def _as_commands_run() -> None:
    keep_freed_memory()


@pytest.fixture
def round_robin() -> Callable[..., dict[str, float]]:
    """Median seconds of several calls, measured in turns so that a busy moment of the machine falls on all.

    With ``clock=time.process_time`` only work of this process counts, on all its threads: for calls of one thread on a
    machine that is never quiet. With ``pick=min`` the least disturbed round counts: for differences of a few per cent.
    """

    def measure(
        calls: Mapping[str, Timed],
        *,
        rounds: int = 5,
        warmup: int = 1,
        clock: Clock = time.perf_counter,
        pick: Callable[[Iterable[float]], float] = median,
    ) -> dict[str, float]:
        for call in [*calls.values()] * warmup:
            call()
        times = [[_seconds(call, clock) for call in calls.values()] for _ in range(rounds)]
        return {name: pick(column) for name, column in zip(calls, zip(*times, strict=True), strict=True)}

    return measure


@pytest.fixture
def in_turns(round_robin: Callable[..., dict[str, float]]) -> Callable[..., tuple[float, float]]:
    """Median seconds of two calls, measured in turns."""

    def measure(first: Timed, second: Timed, **settings: Any) -> tuple[float, float]:
        found = round_robin({"first": first, "second": second}, **settings)
        return found["first"], found["second"]

    return measure


@pytest.fixture
def report(record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print one line of the table: what was measured, the ratio (or another value with its unit), and what it is made of."""

    def say(what: str, value: float, parts: str, *, unit: str = "x") -> None:
        record_property(what, value)
        with capsys.disabled():
            print(f"\n{what}: {value:.2f}{unit} ({parts}; {os.cpu_count()} cores)")

    return say


@pytest.fixture
def one_thread() -> Iterator[None]:
    """No more than one thread, so that times of the processor are times of the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def sharp_victim() -> Callable[[str, int], tuple[Preparation, Tensor]]:
    """An untrained victim whose answers differ and are as sure as a trained one's, and 256 images to ask it."""

    def build(arch: str, classes: int) -> tuple[Preparation, Tensor]:
        shape = SHAPES[arch]
        pixels = torch.randint(0, 256, (256, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = pixels.float() / 255
        channels = shape[0]
        network = create_network(
            arch, num_classes=classes, input_shape=shape, seed=0, mean=(0.5,) * channels, std=(0.25,) * channels
        )
        with torch.no_grad():
            network.train()(images)  # fills batch statistics
            logits = network.eval()(images)
            network.head.bias -= logits.mean(dim=0)
            spread = SPREAD / (logits - logits.mean(dim=0)).std()
            network.head.weight *= spread
            network.head.bias *= spread
        names = tuple(f"class {number}" for number in range(classes))
        train = ImageSet(pixels[:TRAIN], torch.arange(TRAIN) % classes, names, "random pixels")
        return Preparation(predictor=TorchPredictor(network), train=train), images

    return build


def _seconds(call: Timed, clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started
