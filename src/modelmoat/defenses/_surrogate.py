"""Networks of the defender: what they imitate, how they are made, saved and found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from modelmoat.core.errors import DataError, ModelError, OptionError
from modelmoat.core.seeds import derive, generator
from modelmoat.data import ImageSet
from modelmoat.defenses.base import Preparation
from modelmoat.models import Classifier, Predictor, arch_names, create_network, load_artifact
from modelmoat.training import FitSettings, as_float, fit, pixel_statistics
from modelmoat.victims.clean import clean_answers

FILL_IMAGES = 10  # as in the code of MAD: one pass over ten images, learning rate zero
STUDENT_FIT = FitSettings(lr=0.1, schedule="constant", warmup=0.0)
_ANSWERED = 1024


def random_network(preparation: Preparation, owner: str, *, arch: str | None, seed: int) -> Classifier:
    """An untrained network of the victim's architecture, or of ``arch``; the owner's name and the seeds fix its weights.

    Raises:
        OptionError: no architecture given, and the victim's is not registered.
        DataError: training images of another shape than the victim takes.
    """
    predictor, train = preparation.predictor, preparation.train
    if predictor.input_shape is not None and predictor.input_shape != train.shape:
        raise DataError(
            f"training images of shape {train.shape}: victim '{predictor.reference}' takes {predictor.input_shape}; "
            "fix: prepare the defense with the images that the victim was trained on"
        )
    mean, std = pixel_statistics(train)
    return create_network(
        _arch(predictor, owner, arch),
        num_classes=predictor.num_classes,
        input_shape=train.shape,
        seed=derive(preparation.seed, owner, seed, "weights"),
        mean=mean,
        std=std,
    )


def fill_batch_norm(network: Classifier, train: ImageSet, seed: int, count: int = FILL_IMAGES) -> None:
    """Move running statistics by one pass over ``count`` training images; the weights stay as they are."""
    if len(train) < 2:
        raise DataError(f"{len(train)} training images: batch statistics need at least 2; fix: give more images")
    rows = torch.randperm(len(train), generator=generator(seed, "fill"))[:count]
    images = as_float(train.batch(rows))
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # dropout draws here
        torch.default_generator.manual_seed(derive(seed, "dropout"))
        network.train()(images)
    network.eval()


def load_network(path: str, owner: str, predictor: Predictor) -> Classifier:
    """A trained network from an artifact directory.

    Raises:
        ModelError: no artifact there, or one of other classes or images than the victim's.
    """
    network, _ = load_artifact(Path(path).expanduser())
    if network.num_classes != predictor.num_classes:
        raise ModelError(
            f"{owner}:surrogate={path} has {network.num_classes} classes, the victim has {predictor.num_classes}; "
            "fix: choose a surrogate with the victim's classes"
        )
    if predictor.input_shape is not None and network.input_shape != predictor.input_shape:
        raise ModelError(
            f"{owner}:surrogate={path} takes images of {network.input_shape}, the victim takes {predictor.input_shape}; "
            "fix: choose a surrogate for the victim's images"
        )
    return network


def train_student(network: Classifier, preparation: Preparation, *, epochs: int, seed: int) -> None:
    """Train a network on the victim's answers to its own training images, as a thief would on a pool."""
    train, predictor = preparation.train, preparation.predictor
    answers = [
        clean_answers(predictor, as_float(train.batch(rows)), "owner").probabilities
        for rows in torch.arange(len(train)).split(_ANSWERED)
    ]
    settings = replace(STUDENT_FIT, epochs=epochs)
    fit(network, train, torch.cat(answers), settings, seed=seed, device=preparation.device)


def network_facts(network: Classifier) -> dict[str, Any]:
    """What `blank_network` needs to build a network of the same shapes."""
    return {"arch": network.arch, "input_shape": list(network.input_shape)}


def blank_network(predictor: Predictor, facts: Mapping[str, Any]) -> Classifier:
    """A network with any weights, from saved facts; raises `ModelError` where they are incomplete."""
    try:
        channels, height, width = facts["input_shape"]
        return create_network(
            facts["arch"], num_classes=predictor.num_classes, input_shape=(channels, height, width), seed=0
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"saved state does not say which network it holds ({error!r}); fix: prepare again") from error


def _arch(predictor: Predictor, owner: str, arch: str | None) -> str:
    if arch is not None:
        return arch
    if predictor.arch in arch_names():
        return predictor.arch
    raise OptionError(
        f"{owner}: victim '{predictor.reference}' has architecture '{predictor.arch}', which cannot be built here; "
        f"fix: add {owner}:arch=NAME, one of {', '.join(arch_names())}"
    )
