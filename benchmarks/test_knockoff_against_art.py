"""KnockoffNets here against the Adversarial Robustness Toolbox: same network, images, budget, epochs and optimizer."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelmoat.attacks import Thief, create_attack
from modelmoat.data import ImageSet, load_splits
from modelmoat.models import Classifier, TorchPredictor, create_network
from modelmoat.training import FitSettings, accuracy, fit, pixel_statistics
from modelmoat.victims import Victim

LEAST = 1.3
EPOCHS = 5
BATCH = 128
LR = 0.02
SEEDS = 3
MARGIN = 0.03  # difference of mean accuracies that counts as noise between two shuffles

art = pytest.importorskip("art", reason="needs pip install 'modelmoat[benchmark]'")


class SoftCrossEntropy(nn.Module):
    """Cross-entropy to rows of probabilities: the loss that lets the toolbox train on soft answers."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, targets)


def scene() -> tuple[Victim, ImageSet, ImageSet]:
    """A LeNet victim, a pool and test images: Fashion-MNIST where it is at hand, else the embedded digits."""
    here = Path(os.environ.get("MODELMOAT_DATA", "")) / "fashion-mnist"
    reference = (
        "fashion-mnist,pool=0.2" if "MODELMOAT_DATA" in os.environ and here.is_dir() else "digits,size=28,pool=0.5"
    )
    splits = load_splits(reference)
    assert splits.pool is not None
    mean, std = pixel_statistics(splits.train)
    network = create_network("lenet", num_classes=10, input_shape=splits.train.shape, seed=0, mean=mean, std=std)
    fit(network, splits.train, splits.train.labels, FitSettings(epochs=3, lr=0.05), seed=0)
    return Victim(TorchPredictor(network)), splits.pool, splits.test


def test_knockoff_is_faster_than_art(
    in_turns: Callable[..., tuple[float, float]], report: Callable[[str, float, str], None]
) -> None:
    victim, pool, test = scene()
    budget = len(pool)
    settings = FitSettings(
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=LR,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        schedule="constant",
        warmup=0.0,
    )
    ours_accuracy: list[float] = []
    art_accuracy: list[float] = []

    def ours() -> None:
        thief = Thief(
            victim=victim.with_ledger(budget), pool=pool, clone_arch="lenet", fit=settings, seed=len(ours_accuracy)
        )
        (theft,) = create_attack("knockoff").run(thief, [budget])
        assert theft.clone is not None
        ours_accuracy.append(accuracy(theft.clone, test, test.labels))

    images = pool.images.numpy().astype(np.float32) / 255

    def theirs() -> None:
        art_accuracy.append(accuracy(steal_with_art(victim, images, pool, len(art_accuracy)), test, test.labels))

    our_seconds, art_seconds = in_turns(ours, theirs, rounds=SEEDS)
    ratio = art_seconds / our_seconds
    ours_mean, art_mean = float(np.mean(ours_accuracy)), float(np.mean(art_accuracy))
    report(
        "knockoff against the toolbox's",
        ratio,
        f"{our_seconds:.1f} s against {art_seconds:.1f} s, {budget:,} queries, {EPOCHS} epochs, "
        f"clone accuracy {ours_mean:.1%} against {art_mean:.1%}",
    )
    assert ours_mean >= art_mean - MARGIN
    assert ratio >= LEAST


def steal_with_art(victim: Victim, images: np.ndarray, pool: ImageSet, seed: int) -> Classifier:
    """The toolbox's attack at its best settings: batches of 128, soft answers, random sampling."""
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import PyTorchClassifier

    network = victim.predictor.network  # type: ignore[attr-defined]
    shape = pool.shape
    victim_estimator = PyTorchClassifier(
        model=nn.Sequential(copy.deepcopy(network), nn.Softmax(dim=1)),
        loss=SoftCrossEntropy(),
        input_shape=shape,
        nb_classes=10,
    )
    mean, std = pixel_statistics(pool)
    clone = create_network("lenet", num_classes=10, input_shape=shape, seed=seed, mean=mean, std=std)
    optimizer = torch.optim.SGD(clone.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    thief = PyTorchClassifier(
        model=clone, loss=SoftCrossEntropy(), optimizer=optimizer, input_shape=shape, nb_classes=10
    )
    attack = KnockoffNets(
        victim_estimator,
        batch_size_fit=BATCH,
        batch_size_query=BATCH,
        nb_epochs=EPOCHS,
        nb_stolen=len(images),
        sampling_strategy="random",
        use_probability=True,
        verbose=False,
    )
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the toolbox draws from the global state
    attack.extract(images, thieved_classifier=thief)
    return clone
