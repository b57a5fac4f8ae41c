"""Averages and votes over several answers to each input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks._aware import AwareThief, Plan
from modelmoat.attacks.recoveries import Repeated
from modelmoat.attacks.recoveries.averaging import Averaging
from modelmoat.attacks.recoveries.majority_vote import MajorityVote
from modelmoat.core.errors import OptionError
from modelmoat.data import ImageSet
from modelmoat.defenses._queen_reversal import reverse
from modelmoat.training import as_float
from modelmoat.victims import Answers

COPIES = (1, 2, 4, 16)


def merged(recovery: Repeated, rows: Tensor, kind: str = "probabilities") -> Tensor:
    return recovery.merge(Answers(kind, rows.flatten(0, 1)), rows).values


def squared_error(rows: Tensor, clean: Tensor) -> float:
    return float((rows - clean).square().sum(dim=1).mean())


def test_the_error_of_a_mean_falls_as_one_over_the_number_of_copies(softmax_rows: Tensor) -> None:
    noise = 0.05 * torch.randn(400, 16, 10, generator=torch.Generator().manual_seed(0))
    errors = {
        count: squared_error(merged(Averaging(copies=count), softmax_rows[:, None] + noise[:, :count]), softmax_rows)
        for count in COPIES
    }
    for count in COPIES:
        assert errors[count] * count == pytest.approx(10 * 0.05**2, rel=0.1)


def answers_of(loot: Callable, defense: str, copies: int, over: str) -> tuple[Tensor, Tensor, int, int]:
    """Merged and clean answers to 400 images, and what was sent for them: in all, and different inputs."""
    thief = loot(defense, 1).thief
    rows = thief.pool_order()[1:401]
    plan = Plan.of((Averaging(copies=copies, over=over),))
    before = thief.victim.ledger.sent, thief.victim.ledger.unique
    aware = AwareThief.of(thief, plan, goal=10_000, wanted=None)
    answers = aware.query(as_float(thief.pool.batch(rows)))
    ledger = thief.victim.ledger
    clean = thief.victim.clean(thief.pool.batch(rows))
    return answers.targets(), clean, ledger.sent - before[0], ledger.unique - before[1]


def test_repeats_average_over_noise_that_is_drawn_anew_and_are_all_charged(loot: Callable) -> None:
    errors = {}
    for copies in (1, 4, 16):
        found, clean, sent, unique = answers_of(loot, "random_noise:strength=0.3,repeats=fresh", copies, "repeats")
        assert (sent, unique) == (400 * copies, 400)
        errors[copies] = squared_error(found, clean)
    assert errors[1] / errors[4] == pytest.approx(4, rel=0.25)
    assert errors[4] / errors[16] == pytest.approx(4, rel=0.25)


def test_repeats_gain_nothing_on_noise_that_belongs_to_pixels(loot: Callable) -> None:
    once, many = (answers_of(loot, "random_noise:strength=0.3", copies, "repeats")[0] for copies in (1, 4))
    torch.testing.assert_close(once, many)


def test_augmented_copies_are_other_inputs(loot: Callable) -> None:
    _, _, sent, unique = answers_of(loot, "none", 3, "augmentations")
    assert sent == 1200
    assert 600 < unique <= 1200  # there are nine crops of an image of 8x8 pixels


def test_copies_are_crops_of_the_padded_image(pool: ImageSet) -> None:
    image = as_float(pool.images[3])
    padded = F.pad(image, (1, 1, 1, 1))
    crops = {padded[:, y : y + 8, x : x + 8].numpy().tobytes() for y in range(3) for x in range(3)}
    copies = Averaging(copies=60).spread(image, torch.Generator().manual_seed(0))
    assert {copy.numpy().tobytes() for copy in copies} == crops
    voters = MajorityVote(copies=5).spread(image, torch.Generator().manual_seed(0))
    assert torch.equal(voters[0], image)
    assert all(copy.numpy().tobytes() in crops for copy in voters)
    assert torch.equal(MajorityVote(copies=1).spread(image, torch.Generator()), image[None])


def test_labels_become_shares_of_votes() -> None:
    votes = F.one_hot(torch.tensor([[0, 0, 2, 0], [1, 2, 1, 2]]), 3).float()
    assert merged(Averaging(copies=4), votes, "label").tolist() == [[0.75, 0, 0.25], [0, 0.5, 0.5]]
    assert Averaging(copies=4).gives("label") == "probabilities"
    assert Averaging(copies=1).gives("label") == "label"
    assert MajorityVote().gives("label") == "label"
    assert merged(MajorityVote(copies=4), votes, "label").tolist()[0] == [1, 0, 0]


def test_a_vote_worked_out_by_hand() -> None:
    rows = torch.tensor(
        [
            [[0.8, 0.1, 0.1], [0.0, 0.7, 0.3], [0.6, 0.3, 0.1]],  # two for class 0
            [[0.5, 0.4, 0.1], [0.1, 0.9, 0.0], [0.2, 0.0, 0.8]],  # one each: class 1 has the largest sum
        ]
    )
    expected = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.9, 0.0]])
    torch.testing.assert_close(merged(MajorityVote(copies=3), rows), expected)


def test_a_vote_beats_reversed_answers_and_a_mean(softmax_rows: Tensor) -> None:
    random = torch.Generator().manual_seed(1)
    clean = softmax_rows[:, None].expand(400, 5, 10)
    shadows = torch.softmax(torch.randn(400, 5, 10, generator=random), dim=2)
    reversed_rows = reverse(shadows.flatten(0, 1), clean.flatten(0, 1)).view_as(clean)
    turned = torch.rand(400, 5, 1, generator=random) < 0.25
    served = torch.where(turned, reversed_rows, clean)
    alone, vote, mean = served[:, 0], merged(MajorityVote(copies=5), served), merged(Averaging(copies=5), served)
    labels = softmax_rows.argmax(dim=1)

    def wrong(rows: Tensor) -> float:
        return float((rows.argmax(dim=1) != labels).float().mean())

    assert wrong(vote) < wrong(mean) < wrong(alone)
    assert wrong(vote) < 0.5 * wrong(alone)
    assert squared_error(vote, softmax_rows) < 0.5 * squared_error(mean, softmax_rows)


@pytest.mark.parametrize("cls", [Averaging, MajorityVote])
def test_no_copy_is_refused(cls: type[Repeated]) -> None:
    with pytest.raises(OptionError, match="copies=0: expected at least 1"):
        cls(copies=0)
