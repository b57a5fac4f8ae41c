from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelmoat.core.errors import OptionError, RunError
from modelmoat.data import ImageSet, load
from modelmoat.models import Predictor
from modelmoat.training import FitSettings, as_float, predict_top1


def test_a_budget_larger_than_the_pool_is_refused(steal: Callable, quick: Callable, pool: ImageSet) -> None:
    few = pool.take(torch.arange(10))
    with pytest.raises(OptionError, match=r"budget 11: the pool has 10 images.*fix: a budget of at most 10"):
        steal(quick("knockoff"), [4, 11], pool=few)
    assert steal.last.answered == 0
    assert steal(quick("knockoff"), [10], pool=few).thefts[0].sent == 10


def test_each_image_of_the_pool_is_sent_at_most_once_and_as_it_is(
    steal: Callable, quick: Callable, pool: ImageSet
) -> None:
    augmented = FitSettings(epochs=1, min_steps=5, augment="crop_flip", precision="float32")
    sent = steal(quick("knockoff"), [100, len(pool)], fit=augmented).sent
    images = Counter(image.numpy().tobytes() for image in as_float(pool.images))
    assert Counter(image.numpy().tobytes() for image in sent) == images
    assert not torch.equal(sent, as_float(pool.images))  # in random order
    assert not torch.equal(sent[:100].sort(dim=0).values, as_float(pool.images[:100]).sort(dim=0).values)


def test_a_batch_larger_than_one_request_is_asked_in_order(
    steal: Callable, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = steal(quick("knockoff"), [50])
    monkeypatch.setattr("modelmoat.attacks.thief.QUERY_BATCH", 16)
    reports: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "queries":
            reports.append((done, total))

    parts = steal(quick("knockoff"), [20, 50], progress=progress)
    assert torch.equal(parts.sent, whole.sent)
    assert reports == [(16, 50), (20, 50), (36, 50), (50, 50)]


def test_a_clone_learns_the_victim(steal: Callable, quick: Callable, pool: ImageSet, model: Predictor) -> None:
    test = load("digits,split=test")
    fit = FitSettings(epochs=8, batch_size=32, lr=0.05, precision="float32")
    heist = steal(quick("knockoff"), [30, len(pool)], fit=fit)
    victim = model.predict(as_float(test.images)).argmax(dim=1)
    few, all_ = (float((predict_top1(theft.clone, test) == victim).float().mean()) for theft in heist.thefts)
    assert all_ > 0.85
    assert few < all_ - 0.1


def test_a_journal_of_another_seed_is_refused_rather_than_mixed(
    tmp_path: Path, steal: Callable, quick: Callable
) -> None:
    steal(quick("knockoff"), [9], journal=tmp_path / "a.journal")
    with pytest.raises(RunError, match="asks other inputs than the interrupted run"):
        steal(quick("knockoff"), [9], seed=1, journal=tmp_path / "a.journal")
