from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelmoat.core.errors import ModelError, OptionError, UnknownReference, UsageError
from modelmoat.defenses import Preparation, parse_defense, saved_state
from modelmoat.defenses._gram import DenseGram, LastLayerGram
from modelmoat.defenses.mad import Mad
from modelmoat.defenses.mad_argmax import MadArgmax
from modelmoat.models import ModelCard, TorchPredictor, create_network, save_model
from modelmoat.victims import CleanAnswers

PREPARATION = Callable[..., Preparation]
ASKED = Callable[..., CleanAnswers]


def rows(count: int, classes: int, seed: int = 0, sharpness: float = 2.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.softmax(sharpness * torch.randn(count, classes, generator=draw), dim=1).double()


def random_gram(count: int, classes: int, seed: int = 1) -> DenseGram:
    """Of log-probabilities: rows of G that cancel under some q."""
    draw = torch.Generator().manual_seed(seed)
    gradients = torch.randn(count, classes, 30, generator=draw).double()
    q = rows(count, classes, seed)
    gradients = gradients - (q[:, None, :] @ gradients)
    return DenseGram(gradients @ gradients.mT)


def objective(gram: Tensor, y: Tensor, served: Tensor, normalized: bool) -> Tensor:
    """What MAD maximizes, from G Gᵀ [N, K, K]: twice one minus the cosine, or the squared distance of updates."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("...ni,nij,...nj->...n", a, gram, b)

    if normalized:
        return 2 - 2 * product(served, y) / (product(served, served) * product(y, y)).sqrt()
    return product(served - y, served - y)


def dense(gram: DenseGram | LastLayerGram) -> Tensor:
    classes = gram.diagonal().shape[1]
    count = len(gram.diagonal())
    return torch.stack([gram.column(torch.full((count, 1), k)) for k in range(classes)], dim=2)


def pulled(method: Mad | MadArgmax, gram: DenseGram | LastLayerGram, y: Tensor) -> Tensor:
    pull = gram.times(y)
    return pull / (y * pull).sum(dim=1, keepdim=True).sqrt() if method.normalized else pull


GRAMS = [pytest.param(lambda n, k: LastLayerGram(rows(n, k, 7)), id="last"), pytest.param(random_gram, id="all")]


@pytest.mark.parametrize("make", GRAMS)
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_mad_takes_the_best_one_hot_row(make: Callable[..., DenseGram], normalized: bool, classes: int) -> None:
    y, gram = rows(40, classes), make(40, classes)
    method = Mad(normalized=normalized)
    chosen = method.vertex(y, gram, pulled(method, gram, y))
    every = torch.eye(classes).double()[:, None, :].expand(-1, 40, -1)
    values = objective(dense(gram), y, every, normalized)
    torch.testing.assert_close(objective(dense(gram), y, chosen, normalized), values.amax(dim=0), atol=1e-4, rtol=1e-4)
    assert torch.equal(chosen.sum(dim=1), torch.ones(40).double())


@pytest.mark.parametrize("make", GRAMS)
def test_no_point_of_the_simplex_moves_the_update_farther_than_the_vertex(make: Callable[..., DenseGram]) -> None:
    """A convex function is largest at a corner; here against a fine grid for K = 3."""
    y, gram = rows(60, 3), make(60, 3)
    method = Mad(normalized=False)
    reached = objective(dense(gram), y, method.vertex(y, gram, pulled(method, gram, y)), False)
    assert (objective(dense(gram), y, grid_of_three(40, 60), False).amax(dim=0) - reached).max() < 1e-6


def test_the_angle_is_largest_inside_where_the_update_is_reversed() -> None:
    """The published method tries corners alone; opposite to y, seen from q, the angle reaches 180 degrees."""
    q, y = rows(60, 3, 7), rows(60, 3)
    gram, method = LastLayerGram(q), Mad()
    corner = objective(dense(gram), y, method.vertex(y, gram, pulled(method, gram, y)), True)
    opposite = q - 0.01 * (y - q)
    torch.testing.assert_close(objective(dense(gram), y, opposite, True), torch.full((60,), 4.0).double())
    assert bool((corner > 2).all())
    assert bool((corner <= 4 + 1e-9).all())


def grid_of_three(steps: int, count: int) -> Tensor:
    """Points of the simplex of three classes, [G, count, 3]."""
    points = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return (torch.tensor(points).double() / steps)[:, None, :].expand(-1, count, -1)


@pytest.mark.parametrize("make", GRAMS)
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_mad_argmax_takes_the_best_of_all_sets(make: Callable[..., DenseGram], normalized: bool, classes: int) -> None:
    y, gram = rows(30, classes), make(30, classes)
    method = MadArgmax(normalized=normalized)
    top = y.argmax(dim=1, keepdim=True)
    members = method._exhaustive(gram, pulled(method, gram, y), top)
    assert bool((members.gather(1, top) == 1).all())
    reached = objective(dense(gram), y, members / members.sum(dim=1, keepdim=True), normalized)
    best = torch.full((30,), -torch.inf).double()
    for size in range(1, classes + 1):
        for chosen in itertools.combinations(range(classes), size):
            candidate = torch.zeros(30, classes).double()
            candidate[:, list(chosen)] = 1 / size
            value = objective(dense(gram), y, candidate, normalized)
            allowed = (candidate.gather(1, top) > 0)[:, 0] & value.isfinite()
            best = torch.where(allowed, torch.maximum(best, value), best)
    torch.testing.assert_close(reached, best, atol=1e-4, rtol=1e-4)


def slow_greedy(gram: Tensor, y: Tensor, top: int, limit: int) -> set[int]:
    """One row, one candidate at a time."""

    def value(chosen: set[int]) -> float:
        row = torch.zeros(1, len(y)).double()
        row[0, list(chosen)] = 1 / len(chosen)
        return float(objective(gram[None], y[None], row, True))

    members, tried = {top}, 0
    best, best_value = {top}, value({top})
    while len(members) < len(y) and tried < limit:
        others = [k for k in range(len(y)) if k not in members]
        members = members | {max(others, key=lambda k: value(members | {k}))}
        tried += len(others)
        if value(members) > best_value + 1e-4:
            best, best_value = members, value(members)
    return best


@pytest.mark.parametrize("make", GRAMS)
@pytest.mark.parametrize("limit", [1024, 25])
def test_greedy_growth_is_that_of_one_candidate_at_a_time(make: Callable[..., DenseGram], limit: int) -> None:
    y, gram = rows(8, 13, 3), make(8, 13)
    method = MadArgmax(evaluations=limit)
    top = y.argmax(dim=1, keepdim=True)
    members = method._greedy(gram, pulled(method, gram, y), top)
    for at in range(8):
        expected = slow_greedy(dense(gram)[at], y[at], int(top[at]), limit)
        assert set(members[at].nonzero()[:, 0].tolist()) == expected


def test_an_answer_near_its_vertex_stays_on_the_simplex() -> None:
    """Without the clamp, alpha would be 25 for y_k = 0.98 and epsilon 1."""
    served = Mad(surrogate="uniform").prepare(bare(3)).respond(answers(torch.tensor([[0.01, 0.01, 0.98]])))
    assert served.min() >= 0
    assert served.sum() == pytest.approx(1, abs=1e-6)


def bare(classes: int) -> Preparation:
    from modelmoat.data import ImageSet

    network = create_network("small_cnn", num_classes=classes, input_shape=(1, 8, 8), seed=0)
    images = ImageSet(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), tuple("abcdefgh"[:classes]), "x"
    )
    return Preparation(predictor=TorchPredictor(network), train=images)


def answers(probabilities: Tensor) -> CleanAnswers:
    return CleanAnswers(probabilities, torch.zeros(len(probabilities), 1, 8, 8), "someone")


def test_nothing_to_learn_means_nothing_to_turn() -> None:
    uniform = torch.full((2, 4), 0.25)
    for name in ("mad", "mad_argmax"):
        ready = parse_defense(f"{name}:surrogate=uniform").prepare(bare(4))
        assert torch.equal(ready.respond(answers(uniform)), uniform)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_whole_ball_is_used_unless_the_vertex_is_inside(norm: str, preparation: PREPARATION, asked: ASKED) -> None:
    setting = preparation(10)
    clean = asked(setting, 32, sharpness=20.0)
    for epsilon in (0.2, 0.7):
        served = parse_defense(f"mad:norm={norm},epsilon={epsilon}").prepare(setting).respond(clean)
        moved = (served - clean.probabilities).norm(p=1 if norm == "l1" else 2, dim=1)
        torch.testing.assert_close(moved, torch.full((32,), epsilon), atol=1e-5, rtol=0)
    served = Mad(epsilon=2.0).prepare(setting).respond(clean)
    assert torch.equal(served.amax(dim=1), torch.ones(32))


def test_ties_at_the_top_are_kept_even_where_rounding_turns_them() -> None:
    ready = MadArgmax(surrogate="uniform", epsilon=1e-6).prepare(bare(4))
    tied = torch.tensor([[0.1, 0.4, 0.4, 0.1], [0.3, 0.3, 0.3, 0.1], [0.0, 0.5, 0.0, 0.5]])
    assert ready.respond(answers(tied)).argmax(dim=1).tolist() == [1, 0, 1]
    assert MadArgmax(surrogate="uniform", epsilon=2.0).prepare(bare(4)).respond(answers(tied)).argmax(
        dim=1
    ).tolist() == [
        1,
        0,
        1,
    ]


def test_the_random_surrogate_is_the_victims_architecture_with_filled_statistics(preparation: PREPARATION) -> None:
    setting = preparation(10)
    ready = Mad().prepare(setting)
    network = ready.network
    assert network.arch == "small_cnn"
    mean = setting.train.images.float().div(255).mean()
    assert float(network.mean) == pytest.approx(float(mean), abs=1e-4)
    untouched = torch.zeros_like(network.body.norms[0].running_mean)
    assert not torch.equal(network.body.norms[0].running_mean, untouched)
    assert int(network.body.norms[0].num_batches_tracked) == 1
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert not network.training
    other = Mad(seed=1).prepare(setting).network
    again = Mad(epsilon=0.5).prepare(setting).network
    assert not torch.equal(other.head.weight, network.head.weight)
    assert torch.equal(again.head.weight, network.head.weight)
    assert not torch.equal(Mad().prepare(preparation(10, seed=1)).network.head.weight, network.head.weight)


def test_both_methods_share_the_surrogate_so_that_they_can_be_compared(preparation: PREPARATION) -> None:
    first, second = Mad().prepare(preparation(10)), MadArgmax().prepare(preparation(10))
    assert torch.equal(first.network.head.weight, second.network.head.weight)


def saved_network(directory: Path, classes: int, side: int = 8) -> Path:
    network = create_network("small_cnn", num_classes=classes, input_shape=(1, side, side), seed=9)
    save_model(directory, network, ModelCard.of(network, class_names=tuple(map(str, range(classes))), recipe="none"))
    return directory


def test_a_given_surrogate_is_used_and_travels_in_the_state(
    tmp_path: Path, preparation: PREPARATION, asked: ASKED
) -> None:
    setting = preparation(10)
    method = Mad(surrogate=str(saved_network(tmp_path / "it", 10)))
    ready = method.prepare(setting)
    expected = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=9)
    assert torch.equal(ready.network.head.weight, expected.head.weight)
    state = saved_state(ready)
    (tmp_path / "it").rename(tmp_path / "gone")
    clean = asked(setting)
    assert torch.equal(method.restore(setting.predictor, state).respond(clean), ready.respond(clean))


def test_surrogates_that_do_not_fit_are_refused(tmp_path: Path, preparation: PREPARATION) -> None:
    setting = preparation(10)
    with pytest.raises(ModelError, match=r"has 3 classes, the victim has 10; fix"):
        Mad(surrogate=str(saved_network(tmp_path / "three", 3))).prepare(setting)
    with pytest.raises(ModelError, match=r"images of \(1, 16, 16\), the victim takes \(1, 8, 8\)"):
        Mad(surrogate=str(saved_network(tmp_path / "large", 10, 16))).prepare(setting)
    with pytest.raises(ModelError, match=r"not a model artifact"):
        Mad(surrogate=str(tmp_path / "nothing")).prepare(setting)


def test_a_victim_of_unknown_architecture_needs_one_named(preparation: PREPARATION) -> None:
    setting = preparation(10)
    foreign = TorchPredictor(setting.predictor.network, reference="foreign.onnx", arch="onnx")  # type: ignore[attr-defined]
    unknown = Preparation(predictor=foreign, train=setting.train)
    with pytest.raises(
        OptionError, match=r"mad: victim 'foreign.onnx' has architecture 'onnx'.*fix: add mad:arch=NAME"
    ):
        Mad().prepare(unknown)
    assert Mad(arch="small_cnn").prepare(unknown).network.arch == "small_cnn"
    with pytest.raises(UnknownReference, match="small_cnn"):
        Mad(arch="smal_cnn").prepare(unknown)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mad:epsilon=2.5", "epsilon=2.5: expected 0 to 2"),
        ("mad:epsilon=1.5,norm=l2", "expected 0 to 1.414"),
        ("mad:epsilon=-0.1", "expected 0 to 2"),
        ("mad_argmax:epsilon=nan", "epsilon=nan"),
        ("mad:surrogate=uniform,layers=all", "no layers to differentiate; fix: layers=last"),
        ("mad:surrogate=uniform,arch=lenet", "arch=lenet is for surrogate=random only"),
        ("mad:memory_mb=0", "memory_mb=0"),
        ("mad_argmax:evaluations=0", "evaluations=0"),
        ("mad:layers=first", "expected one of last, all"),
    ],
)
def test_impossible_parameters_are_refused(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_defense(spec)
