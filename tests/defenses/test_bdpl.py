"""Randomized labels near the boundary."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modelmoat.core.errors import InvalidAnswer, ModelError, OptionError
from modelmoat.data import load
from modelmoat.defenses import Preparation, parse_defense, saved_state
from modelmoat.defenses.bdpl import Bdpl
from modelmoat.models import TorchPredictor
from modelmoat.victims import CleanAnswers
from modelmoat.victims.clean import clean_answers


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near_rows(count: int, classes: int = 5, gap: float = 0.05) -> Tensor:
    """Rows whose top two classes, the first and the second, differ by ``gap``."""
    rows = torch.full((count, classes), 0.1 / max(1, classes - 2) if classes > 2 else 0.0)
    middle = 0.45 if classes > 2 else 0.5
    rows[:, 0], rows[:, 1] = middle + gap / 2, middle - gap / 2
    return rows


def asked(rows: Tensor, seed: int = 0) -> CleanAnswers:
    return CleanAnswers(rows, torch.rand(len(rows), 1, 4, 4, generator=draws(seed)), "someone")


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.3, 1.0, 2.0, 5.0])
def test_labels_are_kept_with_the_published_probability(epsilon: float) -> None:
    published = 0.5 + math.sqrt(math.exp(2 * epsilon) - 1) / (2 + 2 * math.exp(epsilon))
    defense = Bdpl(epsilon=epsilon)
    assert defense.keep_probability == pytest.approx(published, abs=1e-12)
    served = defense.respond(asked(near_rows(20_000)))
    kept = float((served.argmax(dim=1) == 0).float().mean())
    spread = math.sqrt(published * (1 - published) / 20_000)
    assert abs(kept - published) < 4 * spread + 1e-9


def test_the_probability_runs_from_a_coin_toss_to_certainty() -> None:
    values = [Bdpl(epsilon=epsilon).keep_probability for epsilon in (0.0, 0.1, 1.0, 10.0, 1000.0)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.5, 1.0)
    naive = [Bdpl(epsilon=epsilon, mechanism="randomized_response").keep_probability for epsilon in (0.0, 1.0)]
    assert naive == pytest.approx([0.5, 1 - math.exp(-1) / (1 + math.exp(-1))])


def test_only_the_top_two_of_rows_in_the_zone_change_places() -> None:
    rows = torch.cat([near_rows(300, gap=0.12), near_rows(300, gap=0.13)])
    served = Bdpl(epsilon=0.0, width=0.125).respond(asked(rows))
    assert torch.equal(served[300:], rows[300:])
    swapped = served[:300, 0] != rows[:300, 0]
    assert 100 < int(swapped.sum()) < 200
    assert torch.equal(served[:300][swapped][:, [1, 0, 2, 3, 4]], rows[:300][swapped])
    assert torch.equal(served[:300][~swapped], rows[:300][~swapped])


def test_repeats_and_tiny_noise_do_not_average_out() -> None:
    defense, rows = Bdpl(epsilon=0.0), near_rows(500)
    pixels = torch.randint(256, (500, 1, 4, 4), generator=draws()).float() / 255
    first = defense.respond(CleanAnswers(rows, pixels, "a"))
    jitter = (pixels + 0.0015 * torch.rand(pixels.shape, generator=draws(1))).clamp(0, 1)
    assert torch.equal(defense.respond(CleanAnswers(rows, pixels, "b")), first)
    assert torch.equal(defense.respond(CleanAnswers(rows, jitter, "a")), first)
    assert torch.equal(defense.respond(CleanAnswers(rows.flip(0), pixels.flip(0), "a")).flip(0), first)
    moved = (pixels + 2 / 255).clamp(0, 1)
    agreeing = (defense.respond(CleanAnswers(rows, moved, "a")) == first).all(dim=1).float().mean()
    assert 0.35 < float(agreeing) < 0.65, "another image gets a draw of its own"
    other = Bdpl(epsilon=0.0, seed=1).respond(CleanAnswers(rows, pixels, "a"))
    assert not torch.equal(other, first)


def test_the_zone_of_logits_is_where_logits_are_close() -> None:
    logits = torch.tensor([[1.0, 0.51, -3.0], [1.0, 0.49, -3.0], [9.0, 8.6, -20.0]])
    zone = Bdpl(zone="logit_gap", width=0.5).near(torch.softmax(logits, dim=1))
    assert zone.tolist() == [True, False, True]
    sharp = torch.tensor([[1.0, 0.0, 0.0]])
    assert Bdpl(zone="logit_gap", width=0.5).near(sharp).tolist() == [False]


@pytest.mark.parametrize(("zone", "width"), [("gap", 0.125), ("gap", 1.0), ("logit_gap", 0.5), ("logit_gap", 3.0)])
def test_the_l1_bound_holds_and_is_nearly_reached(zone: str, width: float) -> None:
    defense = Bdpl(epsilon=0.0, zone=zone, width=width)
    shares = torch.linspace(0.5, 1.0, 4001)
    rows = torch.stack([shares, 1 - shares], dim=1)
    moved = (defense.respond(asked(rows)) - rows).abs().sum(dim=1).max()
    assert 0.95 * defense.l1_bound < float(moved) <= defense.l1_bound + 1e-6


def test_ties_and_two_classes_are_served_as_rows() -> None:
    rows = torch.tensor([[0.5, 0.5], [0.49, 0.51], [0.0, 1.0]])
    served = Bdpl(epsilon=0.0).respond(asked(rows))
    torch.testing.assert_close(served.sum(dim=1), torch.ones(3))
    assert torch.equal(served[[0, 2]], rows[[0, 2]])
    assert torch.equal(Bdpl(width=0.0).respond(asked(rows)), rows)


class Linear(nn.Module):
    """Logits of two classes whose difference is w . x + b; a step of L-infinity size d moves it by at most d |w|_1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(2, 64, generator=draws(3)))
            self.layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1) - 0.5)


def linear_victim() -> TorchPredictor:
    return TorchPredictor(Linear(), num_classes=2, input_shape=(1, 8, 8), reference="linear")


def test_the_probe_finds_what_one_gradient_step_can_flip() -> None:
    predictor, defense = linear_victim(), Bdpl(epsilon=0.0, zone="probe", width=0.1)
    weight = predictor.network.layer.weight.detach()
    direction = weight[0] - weight[1]
    along = torch.linspace(-0.3, 0.3, 400)[:, None] * direction.sign()
    images = (0.5 + along + 0.02 * torch.randn(400, 64, generator=draws())).reshape(400, 1, 8, 8)
    near = ((images.flatten(1) - 0.5) @ direction).abs() < 0.1 * direction.abs().sum()
    assert 100 < int(near.sum()) < 170
    ready = defense.prepare(Preparation(predictor=predictor, train=load("digits"), seed=0))
    clean = clean_answers(predictor, images, "someone")
    served = ready.respond(clean)
    changed = (served != clean.probabilities).any(dim=1)
    assert not (changed & ~near).any()
    assert 0.3 < float(changed[near].float().mean()) < 0.7
    singles = torch.cat([ready.respond(clean_answers(predictor, x[None], "someone")) for x in images[:50]])
    torch.testing.assert_close(singles, served[:50])
    assert all(parameter.grad is None for parameter in predictor.network.parameters())


def test_a_probing_defense_must_be_prepared_for_a_victim_with_gradients() -> None:
    defense = parse_defense("bdpl:zone=probe")
    assert (defense.exportable, parse_defense("bdpl").exportable) == (False, True)
    with pytest.raises(OptionError, match="prepare"):
        defense.respond(asked(near_rows(3)))
    recorded = type("Recorded", (), {"reference": "replay:file", "num_classes": 5, "digest": "0"})()
    with pytest.raises(
        OptionError, match=r"needs gradients of the victim, and 'replay:file' gives none; fix: zone=gap"
    ):
        defense.prepare(Preparation(predictor=recorded, train=load("digits")))


def test_a_probing_defense_is_saved_and_restored_for_its_victim_alone() -> None:
    predictor, defense = linear_victim(), parse_defense("bdpl:zone=probe,epsilon=0.0")
    ready = defense.prepare(Preparation(predictor=predictor, train=load("digits")))
    clean = clean_answers(predictor, torch.rand(50, 1, 8, 8, generator=draws()), "someone")
    tensors = saved_state(ready)
    assert torch.equal(defense.restore(predictor, tensors).respond(clean), ready.respond(clean))
    with pytest.raises(ModelError):
        parse_defense("bdpl:zone=probe,epsilon=1").restore(predictor, tensors)
    with pytest.raises(ModelError, match="keeps no state"):
        parse_defense("bdpl").restore(predictor, tensors)


@pytest.mark.parametrize(
    "text", ["epsilon=-1", "epsilon=nan", "width=-0.1", "width=1.5", "levels=0", "zone=edge", "mechanism=fair"]
)
def test_impossible_parameters_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=f"bdpl:{text.split('=')[0]}"):
        parse_defense(f"bdpl:{text}")


@pytest.mark.parametrize("rows", [torch.full((2, 3), torch.nan), torch.ones(2, 1)])
def test_rows_that_are_no_answers_are_refused(rows: Tensor) -> None:
    with pytest.raises(InvalidAnswer, match="fix:"):
        Bdpl().respond(asked(rows))
