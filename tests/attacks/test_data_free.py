from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks import Thief, create_attack
from modelmoat.attacks._data_free import (
    Deceiver,
    blank_clone,
    cosine,
    divergence,
    imbalance,
    logit_distance,
    recovered_logits,
    steps_down,
)
from modelmoat.attacks._generator import Discriminator, Forger, ImageGenerator, pixels, seeded
from modelmoat.attacks._replay import Replay
from modelmoat.attacks._shapes import shape_images
from modelmoat.attacks._stream import Learner, Stream
from modelmoat.attacks._zeroth_order import estimated_gradient, unit_directions
from modelmoat.attacks.disguide import disagreement
from modelmoat.core.errors import ModelError, OptionError
from modelmoat.core.seeds import generator
from modelmoat.data import ImageSet
from modelmoat.models import Predictor, TorchPredictor
from modelmoat.training import FitSettings, TrainingDiverged, accuracy
from modelmoat.victims import Victim

MAKES_IMAGES = ["dfhl_rs", "dfme", "dfms", "disguide", "maze"]
FIT = FitSettings(precision="float32")


@pytest.fixture
def thief(model: Predictor, pool: ImageSet) -> Thief:
    return Thief(victim=Victim(model), pool=pool, clone_arch="small_cnn", fit=FIT)


def forger(shape: tuple[int, int, int] = (1, 8, 8), **changes: Any) -> Forger:
    given = {"latent": 4, "batch_size": 8, "seed": 0, "device": "cpu", "optimizer": "adam", "lr": 1e-3} | changes
    return Forger(shape, **given)


def root_mean_square_cosine(estimate: Tensor, truth: Tensor) -> float:
    return float(F.cosine_similarity(estimate.flatten(1), truth.flatten(1)).square().mean().sqrt())


# Gradients through a victim that only answers


@pytest.mark.parametrize("count", [1, 10, 50])
def test_an_estimated_gradient_is_as_close_to_the_true_one_as_theory_says(
    count: int, model: TorchPredictor, thief: Thief
) -> None:
    clone = blank_clone(thief).double().eval()
    victim = model.network.double()
    rows, size = (400 if count == 1 else 100), 64
    made = torch.randn(rows, 1, 8, 8, generator=generator(0), dtype=torch.float64)

    def losses(points: Tensor) -> Tensor:
        return logit_distance(clone(pixels(points)), victim(pixels(points)).softmax(dim=1))

    leaf = made.clone().requires_grad_()
    (truth,) = torch.autograd.grad(losses(leaf).sum(), leaf)
    directions = unit_directions(count, made, generator(1)).double()
    with torch.no_grad():
        moved = losses((made + 1e-5 * directions).flatten(0, 1)).view(count, rows)
        estimate = estimated_gradient(moved - losses(made), directions, 1e-5)
    victim.float()
    expected = math.sqrt(count / (count + size - 1))
    assert root_mean_square_cosine(estimate, truth) == pytest.approx(expected, rel=0.15 if count == 1 else 0.06)
    scale = float((estimate * truth).sum() / truth.square().sum())  # unbiased: its projection is the gradient itself
    assert scale == pytest.approx(1, abs=0.25 if count == 1 else 0.1)


def test_directions_have_length_one_and_cover_the_sphere() -> None:
    directions = unit_directions(500, torch.zeros(4, 3, 2, 2), generator(0)).flatten(2)
    torch.testing.assert_close(directions.norm(dim=2), torch.ones(500, 4))
    second_moments = torch.einsum("mbi,mbj->ij", directions, directions) / 2000
    torch.testing.assert_close(second_moments, torch.eye(12) / 12, atol=0.01, rtol=0)


def test_a_generators_step_asks_once_and_follows_the_estimated_gradient(thief: Thief) -> None:
    made_by, learner = forger(optimizer="sgd"), Learner(thief, blank_clone(thief), lr=0.1, loss=logit_distance)
    twin = forger(optimizer="sgd")
    attack = create_attack("dfme")
    deceiver = Deceiver.of(attack, thief, made_by, learner, logit_distance, 3, 1e-3)
    stream = Stream(thief, [1000])
    step = deceiver.deceive(stream, lambda _images, _answers: pytest.fail("no budget was reached"))
    with pytest.raises(StopIteration) as stop:
        next(step)
    images, targets = stop.value.value
    assert thief.victim.ledger.sent == stream.size == 8 * (3 + 1)

    made = twin.draw()
    torch.testing.assert_close(images, pixels(made))
    directions = unit_directions(3, made, generator(thief.seed, "attack", "directions"))
    changes = []
    for direction in directions:
        at, away = (logit_distance(learner.logits(x), thief.victim.query(x).targets()) for x in (
            pixels(made.detach()), pixels(made.detach() + 1e-3 * direction)
        ))  # fmt: skip
        changes.append(away - at)
    slope = sum(64 * change.view(-1, 1, 1, 1) / 1e-3 * u / 3 for change, u in zip(changes, directions, strict=True))
    (made * slope).sum().div(8).neg().backward()
    for ours, expected in zip(made_by.network.parameters(), twin.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(targets, thief.victim.query(images).targets())


# Losses


def test_logits_are_recovered_from_probabilities_up_to_a_constant() -> None:
    logits = 3 * torch.randn(20, 7, generator=generator(0))
    torch.testing.assert_close(
        recovered_logits(logits.softmax(dim=1)), logits - logits.mean(dim=1, keepdim=True), atol=1e-5, rtol=1e-4
    )
    assert recovered_logits(torch.eye(3)).isfinite().all()


def test_losses_are_zero_for_a_perfect_clone_and_cross_entropy_for_labels() -> None:
    logits = torch.randn(20, 7, generator=generator(0))
    centered = logits - logits.mean(dim=1, keepdim=True)
    answers = logits.softmax(dim=1)
    torch.testing.assert_close(logit_distance(centered, answers), torch.zeros(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(divergence(logits, answers), torch.zeros(20), atol=1e-5, rtol=0)
    other = torch.randn(20, 7, generator=generator(1))
    by_hand = (answers * (answers.log() - other.log_softmax(dim=1))).sum(dim=1)
    torch.testing.assert_close(divergence(other, answers), by_hand)
    labels = logits.argmax(dim=1)
    for loss in (logit_distance, divergence):
        torch.testing.assert_close(loss(other, labels), F.cross_entropy(other, labels, reduction="none"))


def test_disagreement_and_imbalance() -> None:
    shares = torch.randn(2, 30, 5, generator=generator(0)).softmax(dim=2)
    torch.testing.assert_close(disagreement(shares), shares.std(dim=0).mean(), atol=1e-5, rtol=1e-4)
    same = torch.stack([shares[0], shares[0]]).requires_grad_()
    disagreement(same).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()
    even, odd = torch.eye(4), torch.eye(4)[[0, 0, 0, 0]]
    assert float(imbalance(even)) == pytest.approx(-math.log(4), abs=1e-3)
    assert float(imbalance(odd)) == pytest.approx(0, abs=1e-3)


def test_learning_rates_fall_as_planned() -> None:
    assert [steps_down(share, (0.1, 0.3, 0.5), 0.3) for share in (0.05, 0.1, 0.4, 1)] == pytest.approx(
        [1, 0.3, 0.09, 0.027]
    )
    assert [cosine(share) for share in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


# Parts


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 9, 14, 28, 32, 64])
def test_generators_make_images_of_any_size(channels: int, side: int) -> None:
    images = forger((channels, side, side)).images()
    assert images.shape == (8, channels, side, side)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert not torch.equal(images[0], images[1])
    assert Discriminator(channels)(images).shape == (8,)


def test_what_is_made_is_standardized_and_depends_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    made = forger(batch_size=64).draw()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(made.mean(dim=(0, 2, 3)), torch.zeros(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.var(dim=(0, 2, 3), correction=0), torch.ones(1), atol=1e-3, rtol=0)
    assert torch.equal(forger(batch_size=64).draw(), made)
    assert not torch.equal(forger(batch_size=64, seed=1).draw(), made)
    first, again, other = (seeded(lambda: ImageGenerator(4, (1, 8, 8)), seed).seed.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_climbing_the_true_gradient_is_descending_the_negative_loss() -> None:
    climbing, descending = forger(), forger()
    wanted = torch.rand(1, 8, 8, generator=generator(0))
    made = climbing.draw()
    losses = (made - wanted).square().sum(dim=(1, 2, 3))
    (slope,) = torch.autograd.grad(losses.sum(), made, retain_graph=True)
    climbing.climb(made, slope)
    descending.descend(-(descending.draw() - wanted).square().sum(dim=(1, 2, 3)).mean())
    for a, b in zip(climbing.network.parameters(), descending.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_replay_keeps_the_last_images_with_their_answers() -> None:
    replay = Replay(10, generator(0))
    with pytest.raises(ValueError, match="nothing was kept"):
        replay.sample(1)
    for number in range(4):
        replay.add(torch.full((4, 1, 1, 1), number / 4), torch.full((4,), number))
    assert len(replay) == 10
    images, targets = replay.sample(400)
    torch.testing.assert_close(images[:, 0, 0, 0] * 4, targets.float())
    assert targets.unique().tolist() == [1, 2, 3]
    assert 0.1 < float((targets == 1).float().mean()) < 0.3  # two of ten


def test_shapes_are_varied_images() -> None:
    images = shape_images(50, (3, 16, 16), generator(0))
    assert images.shape == (50, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(images, shape_images(50, (3, 16, 16), generator(0)))
    colors = [len(image.flatten(1).T.unique(dim=0)) for image in images]
    assert max(colors) == 5
    assert min(colors) >= 2


# Streams


def test_a_learner_takes_a_single_image_and_reports_weights_that_are_not_finite(thief: Thief) -> None:
    learner = Learner(thief, blank_clone(thief), lr=0.1, loss=divergence)
    before = learner.network.head.bias.clone()
    shot = learner.snapshot(torch.rand(1, 1, 8, 8), torch.eye(10)[:1])
    assert (shot.steps, learner.steps, shot.precision) == (1, 0, "float32")
    assert torch.equal(learner.network.head.bias, before)
    assert not torch.equal(shot.clone.head.bias, before)
    with torch.no_grad():
        learner.network.head.bias[0] = math.inf
    with pytest.raises(TrainingDiverged, match=r"after 0 steps at a learning rate of 0.1; .* fix: lower clone_lr"):
        learner.snapshot()


@pytest.mark.parametrize(
    ("name", "parameters", "iteration"),
    [
        ("dfme", {"clone_steps": 2, "generator_steps": 2, "directions": 3}, [8, 8, 32, 32]),
        ("maze", {"clone_steps": 3, "generator_steps": 1, "directions": 2}, [24, 8, 8]),
        ("disguide", {"replay_steps": 5}, [8]),
        ("dfhl_rs", {}, [8]),
        ("best", {"images": 24}, [8]),
    ],
)
def test_an_iteration_costs_what_the_formula_says(
    name: str, parameters: dict[str, int], iteration: list[int], steal: Callable, quick: Callable
) -> None:
    attack = quick(name, **parameters)
    budget = 2 * sum(iteration)
    heist = steal(attack, [budget])
    assert [len(batch) for batch in heist.victim._sent] == 2 * iteration
    if name == "dfme":
        per_image = attack.clone_steps + attack.generator_steps * (attack.directions + 1)
        assert budget == 2 * attack.batch_size * per_image
    if name == "maze":
        per_image = (attack.clone_steps - 1) + (1 + attack.directions) * attack.generator_steps
        assert budget == 2 * attack.batch_size * per_image


def test_generator_steps_send_copies_a_small_step_away(steal: Callable, quick: Callable) -> None:
    heist = steal(quick("dfme", clone_steps=1, directions=2), [8 + 24])
    step = torch.atanh(heist.sent[8:].double() * 2 - 1).view(3, 8, -1)
    distances = (step[1:] - step[:1]).norm(dim=2)
    torch.testing.assert_close(distances, torch.full((2, 8), 1e-3, dtype=torch.float64), rtol=0.05, atol=0)


def test_best_asks_points_within_the_ball_where_the_clone_is_less_certain(thief: Thief, pool: ImageSet) -> None:
    attack = create_attack("best")
    learner = Learner(thief, blank_clone(thief), lr=0.1, loss=divergence)
    images = pool.images[:64].float() / 255
    for _ in range(20):
        learner.step(images, F.one_hot(pool.labels[:64], 10).float())
    moved = attack.uncertain(learner, images, generator(0))
    assert float((moved - images).abs().max()) <= attack.epsilon + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert float(moved.sub(images).abs().max()) > 0.9 * attack.epsilon

    def certainty(inputs: Tensor) -> float:
        return float(-learner.logits(inputs).log_softmax(dim=1).mean())

    assert certainty(moved) < certainty(images)


def test_dfhl_rs_raises_entropy_and_invents_images_of_wanted_classes(thief: Thief, pool: ImageSet) -> None:
    attack = create_attack("dfhl_rs", batch_size=32, generator_steps=30, iterations=3, generator_lr=0.01)
    learner = Learner(thief, blank_clone(thief), lr=0.1, loss=divergence)
    images = pool.images[:64].float() / 255
    for _ in range(20):
        learner.step(images, F.one_hot(pool.labels[:64], 10).float())

    def entropy(inputs: Tensor) -> float:
        logs = learner.logits(inputs).log_softmax(dim=1)
        return float(-(logs.exp() * logs).sum(dim=1).mean())

    moved = attack.uncertain(learner, images)
    assert entropy(moved) > entropy(images)
    assert float((moved - images).abs().max()) == pytest.approx(3 * 0.03, abs=1e-5)
    untrained = forger(batch_size=32)
    made = attack.invent(forger(batch_size=32, lr=0.01), learner, generator(0))

    def classes(inputs: Tensor) -> float:
        return float(imbalance(learner.logits(inputs).softmax(dim=1)))

    assert classes(made) < classes(untrained.images())


def test_dfms_asks_no_image_twice_and_draws_shapes_where_told(
    steal: Callable, quick: Callable, pool: ImageSet, same: Callable
) -> None:
    heist = steal(quick("dfms"), [8, 12, 28])
    natural = {image.numpy().tobytes() for image in pool.images.float() / 255}
    asked = [image.numpy().tobytes() in natural for image in heist.sent]
    assert sum(asked[:8]) == 4
    assert not any(asked[8:])
    shapes = steal(quick("dfms", proxy="shapes"), [8, 12, 28], pool=pool.take(torch.arange(2)))
    assert not torch.equal(shapes.sent, heist.sent)
    assert not same(shapes.weights(), heist.weights())


# Misuse


@pytest.mark.parametrize("name", ["dfme", "maze"])
def test_a_victim_that_answers_labels_is_refused_before_the_first_query(
    name: str, steal: Callable, quick: Callable
) -> None:
    with pytest.raises(
        OptionError, match=rf"attack '{name}.* needs probabilities .*; the victim answers with label; fix"
    ):
        steal(quick(name), [20], output="label")
    assert steal.last.answered == 0


@pytest.mark.parametrize("name", MAKES_IMAGES)
def test_images_too_small_to_be_generated_are_refused_before_the_first_query(
    name: str, steal: Callable, quick: Callable
) -> None:
    tiny = ImageSet(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64), ("a",), "tiny")
    with pytest.raises(ModelError, match=rf"attack '{name}' makes images of at least 8x8 pixels.*1x4x4.*fix: choose"):
        steal(quick(name), [20], pool=tiny)
    assert steal.last.answered == 0


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("dfme", {"batch_size": 1}, "batch_size=1: expected at least 2"),
        ("dfme", {"directions": 0}, "directions=0: expected at least 1"),
        ("dfme", {"step": 0.0}, "step=0.0: expected a positive number"),
        ("dfme", {"clone_lr": -1.0}, "clone_lr=-1.0: expected a positive number"),
        ("dfme", {"horizon": 0}, "horizon=0: expected at least 1"),
        ("maze", {"replay_steps": -1}, "replay_steps=-1: expected 0 or more"),
        ("disguide", {"diversity": -0.1}, "diversity=-0.1: expected 0 or more"),
        ("dfhl_rs", {"epoch_batches": 0}, "epoch_batches=0: expected at least 1"),
        ("best", {"epsilon": 0.0}, "epsilon=0.0: expected a number above 0"),
        ("dfms", {"start": 2}, "start=2: expected at least 4"),
        ("dfms", {"proxy_images": 3}, "proxy_images=3: expected at least 64"),
    ],
)
def test_impossible_parameters_are_refused(name: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=f"{name}:{words}"):
        create_attack(name, **parameters)


def test_dfms_needs_a_batch_of_proxy_images(pool: ImageSet) -> None:
    with pytest.raises(OptionError, match="the pool has 63 images; fix: dfms:proxy=shapes, or a larger pool"):
        create_attack("dfms").check([10], 63)
    create_attack("dfms", proxy="shapes").check([10], 63)
    create_attack("dfms").check([10], 64)


@pytest.mark.slow
def test_dfme_steals_digits_without_an_image(model: TorchPredictor, pool: ImageSet) -> None:
    thief = Thief(victim=Victim(model), pool=pool, clone_arch="small_cnn", fit=FIT)
    clones = list(create_attack("dfme", batch_size=64, horizon=40_000).run(thief, [2000, 40_000]))
    early, late = (accuracy(theft.clone, pool.images, pool.labels) for theft in clones)
    assert early < late
    assert late > 0.5
