from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from modelmoat.metrics import agreement, calibration_error, l1_distances, top1_accuracy


def loop_calibration_error(rows: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al. (2017), equations 2 and 3, one bin after another: sum over bins of n_b / N |acc_b - conf_b|."""
    total = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        right, confidence = [], []
        for row, label in zip(rows, labels, strict=True):
            best = max(row)
            if low < best <= high:
                confidence.append(best)
                right.append(list(row).index(best) == label)
        if right:
            total += len(right) / len(rows) * abs(np.mean(right) - np.mean(confidence))
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_equals_a_loop_over_bins(seed: int, bins: int) -> None:
    source = np.random.default_rng(seed)
    rows = source.dirichlet(np.full(4, 0.5), size=300)
    labels = source.integers(0, 4, 300)
    found = calibration_error(torch.from_numpy(rows), torch.from_numpy(labels), bins)
    assert found == pytest.approx(loop_calibration_error(rows, labels, bins), abs=1e-12)


def test_calibration_error_uses_fifteen_bins() -> None:
    source = np.random.default_rng(0)
    rows, labels = source.dirichlet(np.ones(3), size=200), source.integers(0, 3, 200)
    found = calibration_error(torch.from_numpy(rows), torch.from_numpy(labels))
    assert found == pytest.approx(loop_calibration_error(rows, labels, 15), abs=1e-12)


@pytest.mark.parametrize(
    ("confidences", "right", "expected"),
    [
        ([0.5, 0.4375], [True, False], 0.03125),  # one bin (1/4, 1/2]: its edge belongs to it
        ([0.5, 0.5625], [True, False], 0.53125),  # two bins: the edge does not belong to the next one
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 0.75], [False, True], 0.625),
        ([1.0], [False], 1.0),
        ([0.25], [True], 0.75),
    ],
)
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(
    confidences: list[float], right: list[bool], expected: float
) -> None:
    rows = torch.tensor([[confidence, *[(1 - confidence) / 4] * 4] for confidence in confidences])
    labels = torch.tensor([0 if hit else 1 for hit in right])
    assert calibration_error(rows, labels, bins=4) == pytest.approx(expected, abs=1e-12)


def test_perfect_answers_are_calibrated_and_uniform_guesses_too() -> None:
    labels = torch.arange(4)
    assert calibration_error(torch.eye(4), labels) == 0.0
    assert calibration_error(torch.eye(4).roll(1, dims=0), labels) == 1.0
    assert calibration_error(torch.full((4, 4), 0.25), labels) == pytest.approx(0.0)


def rows_of(count: int, classes: int) -> st.SearchStrategy[Tensor]:
    weights = arrays.arrays(np.float64, (count, classes), elements=st.floats(0, 1, allow_subnormal=False))
    return weights.map(
        lambda value: torch.from_numpy((value + 1e-9) / (value + 1e-9).sum(axis=1, keepdims=True)).float()
    )


PAIRS = st.tuples(st.integers(1, 6), st.integers(2, 8)).flatmap(
    lambda shape: st.tuples(rows_of(*shape), rows_of(*shape), rows_of(*shape))
)


@settings(deadline=None)
@given(PAIRS)
def test_l1_is_a_distance_of_at_most_two_on_the_simplex(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, c = rows
    distances = l1_distances(a, b)
    assert distances.shape == (len(a),)
    assert bool(((distances >= 0) & (distances <= 2 + 1e-5)).all())
    assert torch.equal(distances, l1_distances(b, a))
    assert torch.equal(l1_distances(a, a), torch.zeros(len(a)))
    assert bool((distances <= l1_distances(a, c) + l1_distances(c, b) + 1e-5).all())
    for one, other, found in zip(a.tolist(), b.tolist(), distances.tolist(), strict=True):
        assert math.isclose(found, sum(abs(x - y) for x, y in zip(one, other, strict=True)), abs_tol=1e-5)


def test_l1_of_rows_without_a_common_class_is_two() -> None:
    first = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 0.0, 0.25, 0.75], [0.5, 0.5, 0.0, 0.0]])
    assert l1_distances(first, second).tolist() == [2.0, 1.0]


@settings(deadline=None)
@given(PAIRS)
def test_agreement_and_accuracy_count_equal_top_classes(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, _ = rows
    tops = [[row.index(max(row)) for row in side.tolist()] for side in (a, b)]
    same = [one == other for one, other in zip(*tops, strict=True)]
    assert agreement(a, b).tolist() == same
    assert top1_accuracy(a, torch.tensor(tops[1])) == pytest.approx(sum(same) / len(same))


def test_accuracy_of_many_rows_is_exact() -> None:
    rows = torch.tensor([[0.6, 0.4]]).expand(3_000_001, 2)
    labels = torch.zeros(3_000_001, dtype=torch.int64)
    labels[0] = 1
    assert top1_accuracy(rows, labels) == 3_000_000 / 3_000_001
