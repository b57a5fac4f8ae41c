"""The closed forms of QUEEN against what they replace: solvers, walks and loops over single queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from modelmoat.defenses._queen_drift import drift
from modelmoat.defenses._queen_mapping import MappingNetwork, contrastive_loss
from modelmoat.defenses._queen_plane import sensitivity
from modelmoat.defenses._queen_reversal import reverse
from modelmoat.defenses._queen_shadows import draw_members
from modelmoat.defenses._queen_state import QueenState, Queries


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex_rows(count: int, classes: int, seed: int, sharpness: float = 3.0) -> Tensor:
    return torch.softmax(sharpness * torch.randn(count, classes, generator=draws(seed)), dim=1)


def solve(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The published way: SLSQP from a random start for the row on the simplex with the largest cosine."""
    classes = len(wanted)
    found = minimize(
        lambda x: -float(x @ wanted) / float(np.linalg.norm(x) * np.linalg.norm(wanted)),
        rng.dirichlet(np.ones(classes)),
        method="SLSQP",
        bounds=[(0.0, 1.0)] * classes,
        constraints=({"type": "eq", "fun": lambda x: x.sum() - 1},),
    )
    return np.asarray(found.x)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize(("classes", "cases"), [(2, 20), (3, 30), (10, 40), (60, 5)])
def test_reversal_is_never_worse_than_slsqp_and_close_to_it(classes: int, cases: int) -> None:
    clean, expected = simplex_rows(cases, classes, classes), simplex_rows(cases, classes, classes + 1, 1.0)
    served = reverse(expected, clean).double().numpy()
    wanted = (2 * expected - clean).double().numpy()
    rng = np.random.default_rng(classes)
    for w, row in zip(wanted, served, strict=True):
        solved = solve(w, rng)
        assert cosine(row, w) >= cosine(solved, w) - 1e-7
        assert np.abs(row - solved).sum() < 0.007


def test_reversal_in_logit_space_agrees_with_slsqp_too() -> None:
    clean, logits = simplex_rows(20, 10, 0), 2 * torch.randn(20, 10, generator=draws(1))
    served = reverse(logits, clean).double().numpy()
    rng = np.random.default_rng(0)
    for w, row in zip((2 * logits - clean).double().numpy(), served, strict=True):
        assert cosine(row, w) >= cosine(solve(w, rng), w) - 1e-7


def test_without_any_positive_entry_the_largest_takes_all() -> None:
    clean = torch.tensor([[0.2, 0.5, 0.3]])
    assert reverse(torch.tensor([[-1.0, -2.0, -0.5]]), clean).tolist() == [[0.0, 0.0, 1.0]]


@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.1, 30.0))
@settings(max_examples=60, deadline=None)
def test_reversed_rows_are_on_the_simplex_and_turn_the_gradient_around(classes: int, seed: int, sharp: float) -> None:
    clean, expected = simplex_rows(8, classes, seed, sharp), simplex_rows(8, classes, seed + 1, 1.0)
    rows = reverse(expected, clean)
    assert rows.min() >= 0
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(8))
    inside = (2 * expected - clean).min(dim=1).values >= 0
    turned = expected - rows
    torch.testing.assert_close(turned[inside], (clean - expected)[inside], atol=1e-5, rtol=0)


def walk(z: Tensor, centers: Tensor, weight: Tensor, bias: Tensor, step: float, steps: int) -> tuple[Tensor, int]:
    """Feature drift as published: one step after the other until the label would change."""
    label = int((weight @ z + bias).argmax())
    far = centers[int(torch.stack([(center - z).norm() for center in centers]).argmax())]
    way = (far - z) / (far - z).norm()
    taken = 0
    while taken < steps and int((weight @ (z + way * step * (taken + 1)) + bias).argmax()) == label:
        taken += 1
    return torch.softmax(weight @ (z + way * step * taken) + bias, dim=0), taken


@pytest.mark.parametrize(("classes", "step", "steps"), [(2, 0.05, 20), (10, 0.05, 20), (10, 0.4, 7), (50, 0.2, 20)])
def test_drift_ends_where_the_walk_ends(classes: int, step: float, steps: int) -> None:
    draw = draws(classes)
    weight, bias = 2 * torch.randn(classes, 16, generator=draw), torch.randn(classes, generator=draw)
    z, centers = torch.randn(80, 16, generator=draw), torch.randn(classes, 16, generator=draw)
    clean = torch.softmax(z @ weight.T + bias, dim=1)
    moved = drift(clean, z, centers, weight, step=step, steps=steps)
    walked = [walk(row, centers, weight, bias, step, steps) for row in z]
    torch.testing.assert_close(moved, torch.stack([row for row, _ in walked]), atol=2e-5, rtol=0)
    counts = {taken for _, taken in walked}
    assert len(counts) > 2, "the cases should end after different numbers of steps"
    assert torch.equal(moved.argmax(dim=1), clean.argmax(dim=1))


def test_drift_leaves_rows_alone_that_cannot_move() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    z, centers, weight = torch.randn(3, 4, generator=draws(0)), torch.zeros(3, 4), torch.ones(3, 4)
    weight[0] = torch.tensor([9.0, -9.0, 9.0, -9.0])
    assert torch.equal(drift(rows, z, centers, weight, step=0.05, steps=0), rows)
    assert torch.equal(drift(rows, z, centers, weight, step=0.0, steps=20), rows)
    assert drift(rows, z, centers, weight, step=0.05, steps=20).isfinite().all()
    at_center = drift(rows, centers, centers, weight, step=0.05, steps=20)  # no way to go
    torch.testing.assert_close(at_center, rows)


def test_sensitivity_is_highest_in_the_middle_and_half_on_the_border() -> None:
    radius = torch.tensor(0.3)
    values = sensitivity(torch.tensor([0.0, 0.1, 0.3, 0.6, 3.0]), radius)
    expected = [0.5 * math.erfc((d - 0.3) / 0.3) for d in (0.0, 0.1, 0.3, 0.6, 3.0)]
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-6, rtol=0)
    assert values[0] == pytest.approx(0.9214, abs=1e-4)
    assert values[2] == pytest.approx(0.5, abs=1e-6)
    assert (values.diff() < 0).all()


def test_contrastive_loss_is_the_double_sum() -> None:
    points, labels = torch.randn(9, 2, generator=draws(0)), torch.tensor([0, 0, 1, 1, 1, 2, 0, 1, 3])
    terms = []
    for i in range(9):
        others = [a for a in range(9) if a != i]
        scores = {a: float(points[i] @ points[a]) / 0.07 for a in others}
        highest = max(scores.values())
        normalizer = highest + math.log(sum(math.exp(score - highest) for score in scores.values()))
        positive = [a for a in others if labels[a] == labels[i]]
        if positive:
            terms.append(sum(scores[j] - normalizer for j in positive) / len(positive))
    assert float(contrastive_loss(points, labels)) == pytest.approx(-sum(terms) / len(terms), rel=1e-5)


def test_contrastive_loss_without_positives_is_zero_and_has_gradients() -> None:
    points = torch.randn(4, 2, generator=draws(0)).requires_grad_()
    loss = contrastive_loss(points, torch.arange(4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert points.grad is not None
    assert points.grad.isfinite().all()


def test_the_plane_has_the_shape_asked_for() -> None:
    features = 5 * torch.randn(50, 64, generator=draws(0))
    networks = {shape: MappingNetwork(64, 4, shape).eval() for shape in ("disc", "circle", "raw")}
    assert networks["disc"](features).norm(dim=1).max() < 1
    torch.testing.assert_close(networks["circle"](features).norm(dim=1), torch.ones(50))
    torch.testing.assert_close(networks["raw"](features[:, :, None, None]), networks["raw"](features))


def test_members_are_drawn_evenly_and_only_by_the_seed() -> None:
    seeds = torch.arange(4000)
    chosen = draw_members(seeds, 10, 5)
    assert (chosen.sum(dim=1) == 5).all()
    assert torch.equal(draw_members(seeds.flip(0), 10, 5).flip(0), chosen)
    shares = chosen.float().mean(dim=0)
    assert shares.min() > 0.46
    assert shares.max() < 0.54


def random_queries(count: int, classes: int, seed: int, reach: float = 0.05) -> Queries:
    draw = draws(seed)
    points = 0.2 * torch.randn(count, 2, generator=draw)
    points[count // 2 :: 7] = points[0 : len(points[count // 2 :: 7])]  # some are asked again
    gain = 0.01 + 0.02 * torch.rand(count, generator=draw)
    labels = torch.randint(classes, (count,), generator=draw)
    return Queries(labels, points, points.norm(dim=1) < 0.3, torch.full((count,), reach), gain)


def part_of(queries: Queries, rows: slice) -> Queries:
    return Queries(*(getattr(queries, name)[rows] for name in ("labels", "points", "inside", "reach", "gain")))


def one_after_another(queries: Queries, classes: int, threshold: float) -> tuple[list[bool], list[float], list[int]]:
    """The rules for single queries, as published."""
    counters, records, turned = [torch.tensor(0.0)] * classes, [[] for _ in range(classes)], []
    for c, u, inside, r, gain in zip(
        queries.labels.tolist(), queries.points, queries.inside.tolist(), queries.reach, queries.gain, strict=True
    ):
        sensitive = inside and all((u - v).norm() > r for v in records[c])
        turned.append(sensitive and bool(counters[c] > threshold))
        if sensitive and not turned[-1]:
            records[c].append(u)
            counters[c] = counters[c] + gain
    return turned, [float(q) for q in counters], [len(points) for points in records]


@pytest.mark.parametrize(("classes", "threshold"), [(1, 0.3), (5, 0.2), (40, 0.05), (3, 0.0), (3, math.inf)])
def test_a_batch_is_taken_in_as_its_queries_one_after_another(classes: int, threshold: float) -> None:
    queries = random_queries(600, classes, seed=classes)
    turned, counters, filled = one_after_another(queries, classes, threshold)
    for size in (1, 7, 600):
        state = QueenState(classes)
        parts = [slice(start, start + size) for start in range(0, 600, size)]
        found = torch.cat([state.observe("a", part_of(queries, part), threshold) for part in parts])
        assert found.tolist() == turned
        assert state.counter("a").tolist() == counters
        assert [len(state.recorded("a", label)) for label in range(classes)] == filled
        assert state.served.tolist() == [[600, sum(turned)]]
    assert any(turned) == (threshold < math.inf)


def test_a_counter_grows_by_the_gain_of_each_record_and_stops_above_the_threshold() -> None:
    state = QueenState(2)
    seen = []
    for at in range(8):
        point = torch.tensor([[0.1 * at, 0.0]])
        query = Queries(torch.tensor([1]), point, torch.tensor([True]), torch.tensor([0.05]), torch.tensor([0.06]))
        turned = bool(state.observe("a", query, 0.2)[0])
        seen.append((round(float(state.counter("a")[1]), 2), turned))
    assert seen == [(0.06, False), (0.12, False), (0.18, False), (0.24, False), *[(0.24, True)] * 4]
    assert float(state.counter("a")[0]) == 0


def test_the_same_query_is_recorded_once() -> None:
    state = QueenState(3)
    query = Queries(
        torch.tensor([2, 2]), torch.zeros(2, 2), torch.tensor([True, True]), torch.full((2,), 0.1), torch.ones(2)
    )
    for _ in range(3):
        assert not state.observe("a", query, 9.0).any()
    assert len(state.recorded("a", 2)) == 1
    assert state.counter("a").tolist() == [0.0, 0.0, 1.0]


def test_memory_is_bounded_by_what_fits_into_a_region() -> None:
    state = QueenState(1)
    for seed in range(20):
        points = torch.rand(500, 2, generator=draws(seed)) - 0.5
        inside = points.norm(dim=1) < 0.5
        queries = Queries(
            torch.zeros(500, dtype=torch.int64), points, inside, torch.full((500,), 0.2), torch.zeros(500)
        )
        state.observe("a", queries, math.inf)
    assert len(state.recorded("a", 0)) <= (1 + 2 * 0.5 / 0.2) ** 2
    assert state.records.shape[1] <= 64


def test_accounts_do_not_share_counters() -> None:
    queries = random_queries(200, 4, seed=0)
    alone, shared = QueenState(4), QueenState(4)
    for part in (slice(0, 100), slice(100, 200)):
        shared.observe("other", random_queries(300, 4, seed=part.start + 1), 0.1)
        mine = shared.observe("me", part_of(queries, part), 0.1)
        assert torch.equal(mine, alone.observe("me", part_of(queries, part), 0.1))
    assert torch.equal(shared.counter("me"), alone.counter("me"))
    assert shared.counter("nobody").tolist() == [0.0] * 4
    assert len(shared.recorded("nobody", 1)) == 0
