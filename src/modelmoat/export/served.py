"""All that happens between a query and its answer, as one module."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelmoat.assessment import Subject, load_protection
from modelmoat.assessment.protection import is_protected, model_reference
from modelmoat.core.errors import ModelError, OptionError
from modelmoat.core.seeds import generator
from modelmoat.defenses import Defense
from modelmoat.models import OutputKind, TorchPredictor, load_card
from modelmoat.models.artifact import CARD_FILE
from modelmoat.quantization import Bits, Simulated, restore_simulated
from modelmoat.victims import Responder

_CALIBRATION_BATCH = 128


class Served(nn.Module):
    """Images [N, C, H, W] in [0, 1] to served probabilities [N, K].

    Args:
        network: gives scores [N, K].
        kind: what these are.
        defense: ready.
    """

    def __init__(self, network: nn.Module, kind: OutputKind, defense: Responder) -> None:
        super().__init__()
        self.network = network
        self._kind = kind
        self._defense: Any = copy.deepcopy(defense)

    def forward(self, images: Tensor) -> Tensor:
        """Rows on the simplex."""
        scores = self.network(images)
        probabilities = torch.softmax(scores, dim=1) if self._kind == "logits" else scores
        answers: Tensor = self._defense.forward(probabilities, images)
        return answers


def check_exportable(defense: Defense) -> None:
    """Refuse a defense that is more than a function of one query; raises `OptionError` that names it."""
    for step in getattr(defense, "steps", (defense,)):
        if step.stateful:
            raise OptionError(
                f"defense '{step.spec}' remembers earlier queries, which a graph cannot; fix: leave it out of the file, or "
                "serve the victim of modelmoat protect itself"
            )
        if not step.exportable:
            raise OptionError(
                f"defense '{step.spec}' does more than a graph can hold; fix: leave it out of the file, or serve the "
                "victim of modelmoat protect itself"
            )


def float_network(subject: Subject) -> nn.Module:
    """A copy of the victim's torch network on the CPU; raises `ModelError` where it has none."""
    predictor = subject.predictor
    if not isinstance(predictor, TorchPredictor):
        raise ModelError(
            f"'{predictor.reference}' ({predictor.arch}) has no torch network to export; fix: give an artifact folder, "
            "python:module:function or timm:NAME"
        )
    return copy.deepcopy(predictor.network).cpu().eval()


def quantized_folder(victim: str) -> Path | None:
    """Folder of the int8 victim that a reference names, itself or inside a protected one; None for other victims."""
    folder = Path(victim)
    inner = model_reference(folder, load_protection(folder)[0]) if is_protected(victim) else victim
    place = Path(inner.partition(",")[0]).expanduser()
    return place if (place / CARD_FILE).is_file() and load_card(place).quantization else None


def int8_network(subject: Subject, folder: Path | None, *, images: int, seed: int) -> nn.Module:
    """The int8 network of a victim: its own, or one that is calibrated here on some of its training images."""
    if folder:
        return restore_simulated(folder).converted()
    network = float_network(subject)
    if subject.predictor.outputs != "logits":
        raise ModelError(
            f"'{subject.predictor.reference}' ends in probabilities, which eight bits hold badly; fix: give a model that "
            "returns logits"
        )
    train = subject.splits.train
    simulated = Simulated(network, Bits(), input_shape=train.shape)
    order = torch.randperm(len(train), generator=generator(seed, "calibration"))
    batches = list(order[:images].split(_CALIBRATION_BATCH))
    simulated.calibrate(train, batches)
    simulated.correct_biases(train, batches)
    return simulated.converted()
