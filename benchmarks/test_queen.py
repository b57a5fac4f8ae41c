"""QUEEN: a stream of 10,000 queries, against the published solver called once per reversed answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize

from modelmoat.data import load_splits
from modelmoat.defenses import Preparation, create_defense
from modelmoat.models import TorchPredictor, create_network
from modelmoat.training import FitSettings, as_float, fit
from modelmoat.victims.clean import clean_answers

LEAST = 50
QUERIES = 10_000
SOLVED = 50


def test_queen_stream(in_turns: Callable[..., tuple[float, float]], report: Callable[[str, float, str], None]) -> None:
    splits = load_splits("digits")
    network = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0, mean=(0.3,), std=(0.4,))
    fit(network, splits.train, splits.train.labels, FitSettings(epochs=6), seed=0)
    predictor = TorchPredictor(network)
    queen = create_defense("queen", mapping_steps=300, mapping_epochs=1, shadows=3, drawn=2, record_ratio=0.2)
    preparation = Preparation(predictor=predictor, train=splits.train)
    ready = queen.prepare(preparation)
    rows = torch.arange(QUERIES) % len(splits.train)
    noise = torch.rand(QUERIES, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 10
    images = (as_float(splits.train.batch(rows)) + noise).clamp(0, 1)
    clean = [clean_answers(predictor, part, "someone") for part in images.split(1024)]

    def stream() -> None:
        for part in clean:
            ready.respond(part)

    stream_seconds, solver_seconds = in_turns(stream, lambda: solve(clean[0].probabilities[:SOLVED]), rounds=3)
    solver_seconds *= QUERIES / SOLVED
    ratio = solver_seconds / stream_seconds
    parts = f"{stream_seconds:.2f} s against {solver_seconds:.0f} s, K = 10, from {SOLVED} solved rows"
    report("queen, 10,000 queries, against SLSQP per query", ratio, parts)
    assert ratio >= LEAST


def solve(rows: torch.Tensor) -> None:
    """SLSQP for every row, as published: random start, bounds, sum of one."""
    rng = np.random.default_rng(0)
    expected = torch.softmax(torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)), dim=1)
    for w in (2 * expected - rows).double().numpy():
        minimize(
            lambda x, w=w: -float(x @ w) / float(np.linalg.norm(x) * np.linalg.norm(w)),
            rng.dirichlet(np.ones(len(w))),
            method="SLSQP",
            bounds=[(0.0, 1.0)] * len(w),
            constraints=({"type": "eq", "fun": lambda x: x.sum() - 1},),
        )
