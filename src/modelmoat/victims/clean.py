"""The undefended answer: the one place where scores become probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelmoat.models import Predictor


@dataclass(frozen=True)
class CleanAnswers:
    """What a defense may look at.

    Attributes:
        probabilities: undefended answers, float32 [N, K], rows on the simplex.
        inputs: the queries, float32 [N, C, H, W] in [0, 1].
        account: who asks.
        logits: scores before the softmax, float32 [N, K]; None where the model returns probabilities.
    """

    probabilities: Tensor
    inputs: Tensor
    account: str
    logits: Tensor | None = None


def clean_answers(predictor: Predictor, inputs: Tensor, account: str) -> CleanAnswers:
    """Ask the model and turn its outputs into probabilities."""
    outputs = predictor.predict(inputs).float().cpu()
    if predictor.outputs == "probabilities":
        return CleanAnswers(outputs, inputs, account)
    return CleanAnswers(torch.softmax(outputs, dim=1), inputs, account, logits=outputs)
