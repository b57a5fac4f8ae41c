"""Partial Bayes: 10,000 answers looked up in a table of 1,000,000 rows, beside comparing each with all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelmoat.attacks.recoveries._lookup import posterior_mean
from modelmoat.attacks.recoveries._table import Table, around
from modelmoat.defenses import create_defense

ANSWERS, ROWS, CLASSES = 10_000, 1_000_000, 10
TOLERANCE = 0.01
LIMIT_SECONDS = 60.0
LIMIT_MEGABYTES = 2 * (
    48 * 1.048576 + 36 * ROWS / 1e6
)  # as the lookup says of itself; the allocator may keep as much again
BY_LOOP = 20  # answers that are compared with all rows

STATUS = Path("/proc/self/statm")
PAGE = 4096


class Peak:
    """The most resident memory that this process had while the block ran, in MB more than before it."""

    def __enter__(self) -> Peak:
        self._before, self._most, self._done = _resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        return (self._most - self._before) / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._most = max(self._most, _resident())


def _resident() -> int:
    return int(STATUS.read_text().split()[1]) * PAGE


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "parameters", "same_top1"),
    [("reverse_sigmoid", {"beta": 0.2}, True), ("modelguard_w", {"epsilon": 1.0}, False)],
    ids=["reverse_sigmoid", "modelguard_w"],
)
def test_a_million_rows_are_searched_within_a_minute_and_bounded_memory(
    name: str, parameters: dict[str, float], same_top1: bool, report: Callable[[str, float, str], None]
) -> None:
    random = torch.Generator().manual_seed(0)
    clean = torch.softmax(4 * torch.randn(ANSWERS, CLASSES, generator=random), dim=1)
    defense = create_defense(name, **parameters)
    received = defense.perturb(clean)
    rows, _ = around(clean, ROWS, 8.0, random)
    table = Table(rows, torch.cat([defense.perturb(part) for part in rows.split(8192)]))

    with Peak() as peak:
        started = time.perf_counter()
        found = posterior_mean(table, received, tolerance=TOLERANCE, same_top1=same_top1)
        seconds = time.perf_counter() - started

    tops = table.served.argmax(dim=1)
    started = time.perf_counter()
    for row, mean in zip(received[:BY_LOOP], found[:BY_LOOP], strict=True):
        distances = (table.served - row).abs().sum(dim=1)
        if same_top1:
            distances[tops != row.argmax()] = torch.inf
        near = distances <= distances.amin().clamp_min(TOLERANCE) + 1e-6
        torch.testing.assert_close(table.clean[near].mean(dim=0), mean, atol=1e-4, rtol=0)
    by_loop = (time.perf_counter() - started) / BY_LOOP * ANSWERS

    what = f"partial Bayes lookup, {name}"
    sizes = (
        f"{ANSWERS:,} answers, {ROWS:,} rows, K = {CLASSES}, {peak.megabytes:.0f} MB beside {table.megabytes:.0f} MB"
    )
    report(f"{what}, share of sixty seconds", seconds / LIMIT_SECONDS, f"{seconds:.1f} s, {sizes}")
    report(
        f"{what}, speedup over comparing all with all", by_loop / seconds, f"{by_loop:.0f} s, from {BY_LOOP} answers"
    )
    assert seconds < LIMIT_SECONDS
    assert seconds < by_loop
    assert peak.megabytes < LIMIT_MEGABYTES
