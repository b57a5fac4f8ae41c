from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from modelmoat.data import ImageSet
from modelmoat.defenses import Preparation
from modelmoat.models import TorchPredictor, create_network
from modelmoat.victims import CleanAnswers
from modelmoat.victims.clean import clean_answers


@cache
def digit_pixels() -> Tensor:
    return torch.from_numpy(load_digits().images * (255 / 16)).round().to(torch.uint8)[:, None]


@cache
def prepared_for(classes: int, seed: int = 0, victim_seed: int = 0) -> Preparation:
    pixels = digit_pixels()[:64]
    names = tuple(f"class {number}" for number in range(classes))
    train = ImageSet(pixels, torch.arange(len(pixels)) % classes, names, "digits")
    network = create_network(
        "small_cnn", num_classes=classes, input_shape=(1, 8, 8), seed=victim_seed, mean=(0.3,), std=(0.4,)
    )
    predictor = TorchPredictor(network, reference=f"victim-{classes}-{victim_seed}")
    return Preparation(predictor=predictor, train=train, seed=seed)


@pytest.fixture
def preparation() -> Callable[..., Preparation]:
    """What a defender has, for a victim with some number of classes: an untrained small network on 8x8 digits."""
    return prepared_for


@pytest.fixture
def many_digits() -> ImageSet:
    """Enough digits with their labels to learn something from."""
    labels = torch.from_numpy(load_digits().target[:512]).long()
    return ImageSet(digit_pixels()[:512], labels, tuple("0123456789"), "digits")


@pytest.fixture
def queries() -> Callable[[int], Tensor]:
    """Digits that the victim was not trained on, float32 [N, 1, 8, 8]."""
    return lambda count: digit_pixels()[64 : 64 + count].float() / 255


@pytest.fixture
def asked(queries: Callable[[int], Tensor]) -> Callable[..., CleanAnswers]:
    """The victim's own answers to digits, made more or less confident by ``sharpness``."""

    def ask(preparation: Preparation, count: int = 16, sharpness: float = 1.0) -> CleanAnswers:
        clean = clean_answers(preparation.predictor, queries(count), "someone")
        assert clean.logits is not None
        logits = clean.logits * sharpness
        return CleanAnswers(torch.softmax(logits, dim=1), clean.inputs, clean.account, logits)

    return ask
