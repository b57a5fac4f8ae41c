"""An ensemble that agrees on digits and on nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from modelmoat.core.errors import DataError, InvalidAnswer, ModelError, OptionError
from modelmoat.data import ImageSet, Splits, load, load_splits
from modelmoat.defenses import Preparation, parse_defense, saved_state
from modelmoat.defenses.edm import Edm, PreparedEdm, diversity_loss, hash_index, turned
from modelmoat.models import TorchPredictor, create_network
from modelmoat.training import as_float
from modelmoat.victims import CleanAnswers
from modelmoat.victims.clean import clean_answers

CHEAP = Edm(members=3, epochs=5, ood_images=600, hash_epochs=15)
ALIKE = Edm(members=2, epochs=4, ood_images=600, hash_epochs=1, lambda_d=0.0)
ONE_STEP = Edm(members=2, epochs=1, ood="noise", ood_images=32, hash_epochs=1)


@cache
def splits() -> Splits:
    return load_splits("digits")


@cache
def victim(classes: int = 10, channels: int = 1) -> TorchPredictor:
    """Untrained: the members answer in its place."""
    return TorchPredictor(create_network("small_cnn", num_classes=classes, input_shape=(channels, 8, 8), seed=0))


@cache
def prepared(edm: Edm) -> PreparedEdm:
    return edm.prepare(Preparation(predictor=victim(), train=splits().train, seed=1))


def few() -> ImageSet:
    return splits().train.take(torch.arange(128))


def held_out() -> Tensor:
    return as_float(splits().test.images)


def patches() -> Tensor:
    """Photo patches, of which the first 600 were seen in training."""
    return as_float(load("photo-patches,size=8,grey,n=1000,test=0").images[600:])


def ask(ready: PreparedEdm, images: Tensor) -> Tensor:
    return ready.respond(clean_answers(victim(), images, "someone"))


def test_the_hash_index_is_the_published_formula_with_its_floor_clamped() -> None:
    rows = torch.softmax(4 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0)), dim=1)
    rows = torch.cat([rows, torch.eye(10), torch.full((1, 10), 0.1)])
    expected = []
    for row in rows.tolist():
        c, q = row.index(max(row)), max(row)
        level = min(max(math.floor((10 * q - 1) * 2 / 9), 0), 1)
        expected.append((2 * c + level) % 5)
    assert hash_index(rows, bins=2, members=5).tolist() == expected
    assert set(expected) == set(range(5))


def test_the_diversity_loss_is_the_sum_over_pairs() -> None:
    answers = torch.softmax(torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    total = 0.0
    for row in range(6):
        cosines = [
            float(torch.cosine_similarity(answers[a, row], answers[b, row], dim=0))
            for a, b in combinations(range(4), 2)
        ]
        total += math.log(sum(math.exp(cosine) for cosine in cosines)) / 6
    assert float(diversity_loss(answers)) == pytest.approx(total, rel=1e-5)


def test_members_agree_on_digits_and_disagree_on_what_they_were_not_trained_for() -> None:
    ready, alike = prepared(CHEAP), prepared(ALIKE)
    assert float(ready.coherence(held_out()).mean()) > 0.95
    assert float(ready.coherence(patches()).mean()) < 0.2
    assert float(alike.coherence(patches()).mean()) > 0.6


def test_accuracy_is_that_of_an_ordinary_network() -> None:
    right = ask(prepared(CHEAP), held_out()).argmax(dim=1) == splits().test.labels
    assert float(right.float().mean()) > 0.93


def test_exactly_one_member_answers_and_the_same_one_every_time() -> None:
    ready = prepared(CHEAP)
    images = torch.cat([held_out()[:100], patches()[:300]])
    rows, picked = ask(ready, images), ready.pick(images)
    with torch.no_grad():
        every = torch.stack([member(images).softmax(dim=1) for member in ready.members])
    torch.testing.assert_close(rows, every[picked, torch.arange(len(images))], atol=1e-5, rtol=0)
    assert ready.pick(patches()).bincount(minlength=3).min() > 20
    singles = torch.cat([ask(ready, image[None]) for image in images[::10]])
    torch.testing.assert_close(singles, rows[::10], atol=1e-5, rtol=0)
    assert torch.equal(ask(ready, images), rows)


def test_the_hash_is_not_smooth() -> None:
    ready, images = prepared(CHEAP), patches()
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    moved = (ready.pick((images + noise).clamp(0, 1)) != ready.pick(images)).float().mean()
    assert float(moved) > 0.1


def test_a_saved_ensemble_answers_the_same_for_its_victim_alone() -> None:
    ready = prepared(CHEAP)
    tensors = load_tensors(save_tensors(saved_state(ready)))
    assert torch.equal(ask(CHEAP.restore(victim(), tensors), held_out()), ask(ready, held_out()))
    other = TorchPredictor(create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=9))
    with pytest.raises(ModelError, match="victim with digest"):
        CHEAP.restore(other, tensors)
    with pytest.raises(ModelError, match="saved state is of defense"):
        Edm(members=2).restore(victim(), tensors)


def test_the_same_seed_prepares_the_same_ensemble() -> None:
    first, again, other = (
        saved_state(ONE_STEP.prepare(Preparation(predictor=victim(), train=few(), seed=seed))) for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_turned_images_say_how_far_they_were_turned() -> None:
    images = torch.arange(40 * 9).reshape(40, 1, 3, 3).to(torch.uint8)
    rotated, labels = turned(images, torch.full((40,), 2), torch.Generator().manual_seed(0))
    assert labels.unique().tolist() == [8, 9, 10, 11]
    for image, result, label in zip(images, rotated, labels.tolist(), strict=True):
        assert torch.equal(result, image.rot90(label - 8, (1, 2)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("members=1", "edm:members=1"),
        ("lambda_d=-1", "edm:lambda_d=-1"),
        ("epochs=0", "edm:epochs=0"),
        ("hash_bins=0", "edm:hash_bins=0"),
        ("hash_task=colors", "edm:hash_task=colors"),
        ("hash_data=noise", "noise has no labels"),
    ],
)
def test_impossible_parameters_are_refused(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse_defense(f"edm:{text}")


def test_what_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(OptionError, match="without options"):
        Edm(ood="photo-patches,n=100")
    with pytest.raises(OptionError, match=r"tells 4 kinds of inputs apart, too few for members=5; fix"):
        Edm(hash_task="labels", ood_images=50).prepare(Preparation(predictor=victim(), train=few()))
    with pytest.raises(DataError, match=r"edm:ood=digits: 128 of its 1,438 images are also in .*; fix"):
        Edm(members=2, ood="digits").prepare(Preparation(predictor=victim(), train=few()))
    with pytest.raises(DataError, match="10 classes and the victim answers with 4"):
        CHEAP.prepare(Preparation(predictor=victim(classes=4), train=few()))
    pairs = ImageSet(few().images.expand(-1, 2, -1, -1), few().labels, few().class_names, "pairs")
    with pytest.raises(OptionError, match="2 channels"):
        CHEAP.prepare(Preparation(predictor=victim(channels=2), train=pairs))
    with pytest.raises(OptionError, match="prepare"):
        CHEAP.respond(clean_answers(victim(), held_out()[:2], "someone"))


def test_an_attackers_copy_does_without_images_that_it_has_sent() -> None:
    cheap = Edm(members=2, epochs=1, hash_epochs=1, ood="digits", arch="small_cnn")
    copy = Preparation(predictor=victim(), train=few(), simulated=True)
    assert cheap.prepare(copy).respond(clean_answers(victim(), held_out()[:2], "someone")).shape == (2, 10)
    everything = replace(copy, train=load("digits"))
    with pytest.raises(DataError, match="edm:ood=digits: all its images are among the attacker's own"):
        cheap.prepare(everything)


def test_rows_that_are_no_answers_are_refused() -> None:
    ready = prepared(CHEAP)
    for rows, error in ((torch.full((2, 10), torch.nan), InvalidAnswer), (torch.full((2, 4), 0.25), ModelError)):
        with pytest.raises(error, match="fix:"):
            ready.respond(CleanAnswers(rows, held_out()[:2], "someone"))
