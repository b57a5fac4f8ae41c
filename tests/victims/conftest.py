from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from modelmoat.victims import CleanAnswers


class CountingPredictor:
    """Scores each row by itself and counts how many it was asked for."""

    outputs: Literal["logits", "probabilities"] = "logits"
    arch = "table"
    recipe = "none"
    digest = "0123456789abcdef"
    reference = "memory"
    num_classes = 3
    input_shape = (1, 2, 2)
    class_names = ()
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked = 0

    def predict(self, inputs: Tensor) -> Tensor:
        self.asked += len(inputs)
        return inputs.flatten(1)[:, : self.num_classes] * 4


class Turnstile:
    """A defense with state: the n-th answer of an account is the clean row shifted by n classes."""

    spec = "turnstile"
    stateful = True

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def respond(self, clean: CleanAnswers) -> Tensor:
        rows = []
        for row in clean.probabilities:
            number = self.asked.get(clean.account, 0)
            self.asked[clean.account] = number + 1
            rows.append(row.roll(number))
        return torch.stack(rows)


class Fixed:
    """A defense that answers with rows made by a function of the clean ones."""

    spec = "fixed"
    stateful = False

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self._change = change

    def respond(self, clean: CleanAnswers) -> Tensor:
        return self._change(clean.probabilities)


@pytest.fixture
def predictor() -> CountingPredictor:
    return CountingPredictor()


@pytest.fixture
def make_predictor() -> Callable[[], Any]:
    return CountingPredictor


@pytest.fixture
def turnstile() -> Callable[[], Any]:
    return Turnstile


@pytest.fixture
def fixed() -> Callable[[Callable[[Tensor], Tensor]], Any]:
    return Fixed


@pytest.fixture
def inputs() -> Tensor:
    """Twelve different images of 1x2x2."""
    return torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
