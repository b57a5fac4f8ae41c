"""Trained models on disk: a directory with ``model.safetensors`` and ``model.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as read_weights
from safetensors.torch import save as dump_weights

from modelmoat import __version__
from modelmoat.core.errors import ModelError, OptionError, UnknownReference
from modelmoat.core.files import atomic_path, write_text
from modelmoat.core.runs import now
from modelmoat.models.architectures import create_network
from modelmoat.models.digests import bytes_digest, unreadable
from modelmoat.models.network import Classifier
from modelmoat.models.quantized import Quantization
from modelmoat.models.request import Shape

CARD_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


class ModelCard(BaseModel):
    """What is known about a trained model; accuracies in ``metrics`` are shares in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    arch: str
    num_classes: int = Field(ge=2)
    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = Field(description="one name per class")
    recipe: str = Field(description="how it was trained")
    data: str | None = Field(default=None, description="reference of its training data")
    data_seed: int = Field(default=0, description="seed of the splits")
    data_digests: dict[str, str] = Field(default_factory=dict, description="hash of each split, and of ood")
    ood: str | None = Field(default=None, description="reference of out-of-distribution images it was trained with")
    test_size: int = 0
    metrics: dict[str, float] = Field(default_factory=dict, description="such as test_accuracy")
    precision: str = "float32"
    quantization: Quantization | None = Field(default=None, description="for an int8 victim, what became of it")
    weights_digest: str = Field(default="", description="16 hex digits of the weights file; filled in on saving")
    fingerprint: str = Field(
        default="", description="hash of all that the weights depend on: recipe, data, settings, seed"
    )
    package_version: str = __version__
    created: str = Field(default_factory=now, description="UTC, ISO 8601")

    @model_validator(mode="after")
    def _one_name_per_class(self) -> Self:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        return self

    @classmethod
    def of(cls, network: Classifier, *, class_names: tuple[str, ...], recipe: str, **facts: Any) -> Self:
        """A card with what the network itself tells: architecture, classes, input shape and normalization."""
        return cls(
            arch=network.arch,
            num_classes=network.num_classes,
            input_shape=network.input_shape,
            mean=tuple(network.mean.flatten().tolist()),
            std=tuple(network.std.flatten().tolist()),
            class_names=class_names,
            recipe=recipe,
            **facts,
        )


def save_model(directory: Path, network: Classifier, card: ModelCard) -> ModelCard:
    """Write the weights, then the card with their hash; a crash between the two is seen on loading.

    Returns:
        The card as written, with ``weights_digest``.

    Raises:
        ModelError: the card does not describe the network.
        RunError: the disk is full or the folder cannot be written.
    """
    _check_card(network, card)
    return write_artifact(directory, network.state_dict(), card)


def write_artifact(directory: Path, state: Mapping[str, torch.Tensor], card: ModelCard) -> ModelCard:
    """Write tensors, then a card with their hash; returns the card as written."""
    data = dump_weights({name: value.detach().cpu().contiguous() for name, value in state.items()})
    written = card.model_copy(update={"weights_digest": bytes_digest(data)})
    with atomic_path(directory / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(data)
    write_text(directory / CARD_FILE, written.model_dump_json(indent=2) + "\n")
    return written


def load_card(directory: Path) -> ModelCard:
    """The card of an artifact; raises `ModelError` where there is none or it is not of this version."""
    path = directory / CARD_FILE
    if not path.is_file() and any(directory.glob("*checkpoint.safetensors")):
        raise ModelError(
            f"'{directory}' holds a training that has not ended: it has a checkpoint and no {CARD_FILE}; fix: run its "
            "'modelmoat train' again, which goes on from there"
        )
    if not path.is_file():
        raise ModelError(
            f"'{directory}' is not a model artifact: it has no {CARD_FILE}; "
            f"fix: give a folder with {CARD_FILE} and {WEIGHTS_FILE}, as 'modelmoat train' writes it"
        )
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "card"
        raise ModelError(
            f"{path}: {where}: {first['msg']}; this version reads schema 1; fix: train it again"
        ) from error


def load_artifact(directory: Path, device: torch.device | str = "cpu") -> tuple[Classifier, ModelCard]:
    """The network, in eval mode on ``device``, and its card.

    Raises:
        ModelError: a file is missing, cut short or changed; the architecture is unknown; the weights do not fit it; or
            they are those of an int8 victim, which answers from a graph.
    """
    card = load_card(directory)
    if card.quantization:
        raise ModelError(
            f"'{directory}' is an int8 victim ({card.recipe}), whose weights and gradients are not at hand; fix: give the "
            "float32 victim that it came from"
        )
    network = untrained(directory, card)
    try:
        network.load_state_dict(read_state(directory, card))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{directory / WEIGHTS_FILE} does not fit {card.arch}: {detail}; fix: train it again"
        ) from error
    return network.to(device).eval(), card


def untrained(directory: Path, card: ModelCard) -> Classifier:
    """A network of the form that a card describes; raises `ModelError` where this version has no such form."""
    try:
        return create_network(
            card.arch,
            num_classes=card.num_classes,
            input_shape=card.input_shape,
            seed=0,
            mean=card.mean,
            std=card.std,
        )
    except (UnknownReference, OptionError) as error:
        raise ModelError(f"{directory / CARD_FILE}: {error}") from error


def read_state(directory: Path, card: ModelCard) -> dict[str, torch.Tensor]:
    """The tensors of an artifact; raises `ModelError` where the file is missing, cut short or changed."""
    path = directory / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    found = bytes_digest(data)
    if found != card.weights_digest:
        raise ModelError(
            f"{path} has hash {found}, but {CARD_FILE} says {card.weights_digest or 'none'}: it was cut short, "
            "changed, or its saving was interrupted; fix: copy both files again or train the model again"
        )
    try:
        weights: dict[str, torch.Tensor] = read_weights(data)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}; fix: train the model again") from error
    return weights


def _check_card(network: Classifier, card: ModelCard) -> None:
    own = ModelCard.of(network, class_names=card.class_names, recipe=card.recipe)
    for key in ("arch", "num_classes", "input_shape"):
        if getattr(card, key) != getattr(own, key):
            raise _other_network(key, card, own)
    for key in ("mean", "std"):
        if not torch.allclose(torch.tensor(getattr(card, key)), torch.tensor(getattr(own, key))):
            raise _other_network(key, card, own)


def _other_network(key: str, card: ModelCard, own: ModelCard) -> ModelError:
    return ModelError(
        f"the card says {key}={getattr(card, key)}, the network has {getattr(own, key)}; fix: use ModelCard.of(network)"
    )
