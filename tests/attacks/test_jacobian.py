"""The crafting rules, against the same formulas worked out by hand on a linear softmax model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modelmoat.attacks import create_attack
from modelmoat.attacks._jacobian import JacobianAttack
from modelmoat.core.errors import OptionError
from modelmoat.data import ImageSet
from modelmoat.models import Classifier, Network

SHAPE = (2, 3, 3)
CLASSES = 5
PIXELS = math.prod(SHAPE)
NAMES = ["jbda", "jbda:rule=away", "jb_self", "jb_top3", "jbda_tr"]


class Linear(Network):
    """Logits W x + b."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.head = nn.Linear(PIXELS, classes)
        random = torch.Generator().manual_seed(5)
        self.head.weight.data = torch.randn(classes, PIXELS, generator=random)
        self.head.bias.data = torch.randn(classes, generator=random)

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def linear(classes: int = CLASSES) -> Classifier:
    return Classifier(Linear(classes), arch="linear", input_shape=SHAPE, mean=(0.2, 0.4), std=(0.5, 0.25)).eval()


@pytest.fixture
def clone() -> Classifier:
    return linear()


@pytest.fixture
def inputs() -> Tensor:
    """Images with many pixels so near the edges that a step leaves [0, 1]."""
    return (torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(1)) * 1.3 - 0.15).clamp(0, 1)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(40) % CLASSES


def weights(clone: Classifier) -> Tensor:
    """d logits / d image, [K, C, H, W]: normalization divides by the spread of each channel."""
    return clone.head.weight.detach().view(CLASSES, *SHAPE) / clone.std


def loss_gradient(clone: Classifier, inputs: Tensor, labels: Tensor) -> Tensor:
    """d CE / d image = sum_k (p_k - [k = label]) w_k."""
    with torch.no_grad():
        errors = torch.softmax(clone(inputs), dim=1) - torch.eye(CLASSES)[labels]
    return torch.einsum("nk,kchw->nchw", errors, weights(clone))


def craft(reference: str, clone: Classifier, inputs: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    name, _, options = reference.partition(":")
    attack = create_attack(name, **dict(part.split("=") for part in options.split(",") if part))
    assert isinstance(attack, JacobianAttack)
    return attack.craft(clone, inputs, labels, torch.Generator().manual_seed(seed))


def test_papernot_climbs_the_score_of_the_label(clone: Classifier, inputs: Tensor, labels: Tensor) -> None:
    expected = (inputs + 0.1 * weights(clone)[labels].sign()).clamp(0, 1)
    made = craft("jbda", clone, inputs, labels)
    assert made.shape == (40, 1, *SHAPE)
    torch.testing.assert_close(made[:, 0], expected)


def test_away_climbs_the_loss_and_jb_self_descends_it(clone: Classifier, inputs: Tensor, labels: Tensor) -> None:
    signs = loss_gradient(clone, inputs, labels).sign()
    away, own = craft("jbda:rule=away", clone, inputs, labels)[:, 0], craft("jb_self", clone, inputs, labels)[:, 0]
    torch.testing.assert_close(away, (inputs + 0.1 * signs).clamp(0, 1))
    torch.testing.assert_close(own, (inputs - 0.1 * signs).clamp(0, 1))


def test_step_is_how_far_a_pixel_goes(clone: Classifier, labels: Tensor) -> None:
    grey = torch.full((40, *SHAPE), 0.5)
    for name in ("jbda", "jb_self"):
        made = create_attack(name, step=0.03).craft(clone, grey, labels, torch.Generator())
        torch.testing.assert_close((made[:, 0] - grey).abs(), torch.full_like(grey, 0.03))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_stay_as_they_are_and_crafted_ones_are_images(
    name: str, clone: Classifier, inputs: Tensor, labels: Tensor
) -> None:
    before, kept = inputs.clone(), [value.clone() for value in clone.parameters()]
    made = craft(name, clone, inputs, labels)
    assert torch.equal(inputs, before)
    assert not inputs.requires_grad
    assert not made.requires_grad
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert all(torch.equal(value, old) for value, old in zip(clone.parameters(), kept, strict=True))
    assert all(value.grad is None for value in clone.parameters())
    assert not torch.equal(made[:, 0], inputs)


@pytest.mark.parametrize("name", ["jb_top3", "jbda_tr"])
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.5])
def test_targeted_variants_stay_in_the_ball(
    name: str, epsilon: float, clone: Classifier, inputs: Tensor, labels: Tensor
) -> None:
    attack = create_attack(name, epsilon=epsilon)
    made = attack.craft(clone, inputs, labels, torch.Generator().manual_seed(0))
    assert made.shape == (40, 3, *SHAPE)
    moved = (made - inputs[:, None]).abs()
    assert float(moved.max()) <= epsilon + 1e-6
    assert float(moved.max()) > 0.9 * epsilon


def test_top3_descends_the_loss_to_a_fixed_wrong_class(clone: Classifier, inputs: Tensor, labels: Tensor) -> None:
    """Eight projected steps towards each of the three likeliest wrong classes, worked out by hand."""
    with torch.no_grad():
        scores = clone(inputs)
    scores[torch.arange(40), labels] = -torch.inf
    ranked = scores.sort(dim=1, descending=True).indices
    made = craft("jb_top3", clone, inputs, labels)
    for rank in range(3):
        moved = inputs
        for _ in range(8):
            moved = moved - 1.85 * 0.1 / 8 * loss_gradient(clone, moved, ranked[:, rank]).sign()
            moved = moved.clamp(0, 1).clamp(inputs - 0.1, inputs + 0.1).clamp(0, 1)
        torch.testing.assert_close(made[:, rank], moved)


def test_top3_targets_are_the_clones_likeliest_wrong_classes() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 7, generator=random), torch.randint(0, 7, (200,), generator=random)
    attack = create_attack("jb_top3")
    for variant in range(3):
        targets = attack.targets_for(logits, labels, variant, random)
        for row in range(200):
            wrong = sorted((k for k in range(7) if k != labels[row]), key=lambda k: -float(logits[row, k]))
            assert int(targets[row]) == wrong[variant]


@pytest.mark.parametrize("name", ["jb_top3", "jbda_tr"])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_an_input_gets_no_more_variants_than_there_are_wrong_classes(name: str, classes: int, inputs: Tensor) -> None:
    labels = torch.arange(len(inputs)) % classes
    attack = create_attack(name, epsilon=0.01)  # so little that the same variants would be the same pixels
    assert isinstance(attack, JacobianAttack)
    made = attack.craft(linear(classes), inputs, labels, torch.Generator().manual_seed(0))
    variants = min(3, classes - 1)
    assert made.shape == (len(inputs), variants, *SHAPE)
    if name == "jb_top3":
        assert all(len(each.flatten(1).unique(dim=0)) == variants for each in made)


def test_tr_targets_are_uniform_over_wrong_classes() -> None:
    rows, classes = 18_000, 10
    labels = torch.arange(rows) % classes
    random = torch.Generator().manual_seed(0)
    targets = create_attack("jbda_tr").targets_for(torch.zeros(rows, classes), labels, 0, random)
    assert not (targets == labels).any()
    counts = torch.zeros(classes, classes).index_put_((labels, targets), torch.ones(rows), accumulate=True)
    expected = rows / classes / (classes - 1)
    off = counts[~torch.eye(classes, dtype=torch.bool)]
    squares = float(((off - expected) ** 2 / expected).sum())
    assert 48 < squares < 121  # 80 degrees of freedom: outside in fewer than one draw in five hundred


def test_tr_draws_a_new_target_at_every_step(
    clone: Classifier, inputs: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = create_attack("jbda_tr", variants=2, iterations=4)
    drawn: list[Tensor] = []
    draw = type(attack).targets_for

    def remember(self: object, *arguments: object) -> Tensor:
        drawn.append(draw(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(type(attack), "targets_for", remember)
    attack.craft(clone, inputs, labels, torch.Generator().manual_seed(0))
    assert len({tuple(targets.tolist()) for targets in drawn}) == 8


def test_each_seed_and_round_has_its_own_draws(
    steal: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = quick("jbda_tr")
    origins: list[int] = []
    craft = type(attack).craft

    def remember(self: object, clone: object, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        origins.append(random.initial_seed())
        return craft(self, clone, inputs, labels, random)

    monkeypatch.setattr(type(attack), "craft", remember)
    for seed in (0, 1, 0):
        steal(attack, [40], seed=seed)  # two rounds
    assert len(set(origins)) == 4
    assert origins[:2] == origins[4:]


def test_rounds_craft_from_all_that_was_asked_before(steal: Callable, quick: Callable, pool: ImageSet) -> None:
    digest = pool.digest
    sent = steal(quick("jbda"), [40]).sent
    known = {image.numpy().tobytes() for image in pool.images.div(255)}
    assert all(image.numpy().tobytes() in known for image in sent[:6])
    for start, count in ((6, 6), (12, 12), (24, 16)):  # each round doubles the set; the last one is cut to the budget
        moved = (sent[start : start + count] - sent[:count]).abs()
        assert float(moved.max()) == pytest.approx(0.1)
        inside = (sent[:count] >= 0.1) & (sent[:count] <= 0.9)
        assert ((moved - 0.1).abs() < 1e-5)[inside & (moved > 0)].all()
    assert digest == ImageSet(pool.images, pool.labels, pool.class_names, "again").digest


def test_variants_of_an_input_follow_each_other(steal: Callable, quick: Callable) -> None:
    sent = steal(quick("jb_top3", epsilon=0.05), [24]).sent
    seeds, made = sent[:6], sent[6:].view(6, 3, *sent.shape[1:])
    assert float((made - seeds[:, None]).abs().max()) <= 0.05 + 1e-6


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("jbda", "seeds", 1),
        ("jbda", "step", 0.0),
        ("jbda", "step", math.nan),
        ("jb_self", "step", -0.1),
        ("jb_self", "round_epochs", 0),
        ("jb_top3", "variants", 0),
        ("jb_top3", "epsilon", 0.0),
        ("jbda_tr", "epsilon", math.inf),
        ("jbda_tr", "iterations", 0),
    ],
)
def test_impossible_parameters_are_refused(name: str, parameter: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name}:{parameter}={value}: expected"):
        create_attack(name, **{parameter: value})
