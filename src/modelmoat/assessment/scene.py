"""Victim, test images and pool, loaded and checked against each other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.utility import clean_rows
from modelmoat.core.errors import DataError, ModelError, OptionError, RunError
from modelmoat.core.shapes import by, reshape_options
from modelmoat.data import ImageSet, Splits, load, load_splits, overlap
from modelmoat.models import ModelCard, Predictor, arch_names, create_network, load_card
from modelmoat.models.artifact import CARD_FILE
from modelmoat.victims import load_predictor


@dataclass(frozen=True)
class Scene:
    """What every cell of an assessment shares.

    Attributes:
        predictor: the undefended model.
        data: reference of the victim's data.
        train: images that the victim was trained on; for preparing defenses.
        test: images that nobody trained on.
        pool: inputs that the attacker may send.
        clone_arch: architecture of the clones.
        clean: undefended answers to the test images, float32 [N, K].
    """

    predictor: Predictor
    data: str
    train: ImageSet
    test: ImageSet
    pool: ImageSet
    clone_arch: str
    clean: Tensor


def set_scene(spec: AssessmentSpec) -> Scene:
    """Load all that an assessment needs and refuse what does not fit.

    Raises:
        ModelError: the model and the data differ in shape or classes, or the model gives bad outputs.
        DataError: the pool has another shape, or shares images with the victim's data.
        OptionError: the pool is too small for an attack; no architecture for clones; more classes asked than there are.
        RunError: the data are not those that the victim was trained on.
    """
    card = _card_of(spec.victim)
    data, seed = _data_of(spec, card)
    splits = load_splits(data, seed=seed)
    predictor = load_predictor(
        spec.victim, allow_pickle=spec.allow_pickle, device=spec.device, input_shape=splits.test.shape
    )
    _check_victim(predictor, splits, data)
    _check_output(spec, predictor)
    if card and spec.data is None:
        _check_same_data(card, splits, data)
    pool = _pool(spec, splits, seed)
    return Scene(
        predictor,
        data,
        splits.train,
        splits.test,
        pool,
        _clone_arch(spec, predictor, pool),
        clean_rows(predictor, splits.test),
    )


def _card_of(reference: str) -> ModelCard | None:
    path = Path(reference)
    return load_card(path) if (path / CARD_FILE).is_file() else None


def _data_of(spec: AssessmentSpec, card: ModelCard | None) -> tuple[str, int]:
    seed = spec.data_seed if spec.data_seed is not None else (card.data_seed if card else 0)
    if spec.data is not None:
        return spec.data, seed
    if card and card.data:
        return card.data, seed
    with suppress(ModelError):  # a victim that is not there is the first thing to say; the rest can wait for its data
        load_predictor(spec.victim, allow_pickle=spec.allow_pickle)
    raise OptionError(
        f"victim '{spec.victim}' does not say which data it was trained on; fix: add --data REF with its test images"
    )


def _check_victim(predictor: Predictor, splits: Splits, data: str) -> None:
    if predictor.input_shape and predictor.input_shape != splits.test.shape:
        raise ModelError(
            f"victim '{predictor.reference}' takes images of {by(predictor.input_shape)}, '{data}' has {by(splits.test.shape)} "
            "(channels x height x width); fix: add size= or grey to --data, or choose its own data"
        )
    if predictor.num_classes != splits.test.num_classes:
        raise ModelError(
            f"victim '{predictor.reference}' answers with {predictor.num_classes} classes, '{data}' has "
            f"{splits.test.num_classes}; fix: choose the data that it was trained on"
        )


def _check_output(spec: AssessmentSpec, predictor: Predictor) -> None:
    asked = spec.output.k
    if asked is not None and asked > predictor.num_classes:
        raise OptionError(
            f"output {spec.output}: victim '{predictor.reference}' has {predictor.num_classes} classes; "
            f"fix: top{predictor.num_classes} or fewer"
        )


def _check_same_data(card: ModelCard, splits: Splits, data: str) -> None:
    for name, images in (("train", splits.train), ("test", splits.test)):
        expected = card.data_digests.get(name)
        if expected and expected != images.digest:
            raise RunError(
                f"'{data}' has changed since the victim was trained: its {name} images hash to {images.digest}, not "
                f"{expected}; fix: restore the data, or name other test data with --data"
            )


def _pool(spec: AssessmentSpec, splits: Splits, seed: int) -> ImageSet:
    pool = load(spec.pool, seed=seed)
    if pool.shape != splits.test.shape:
        raise DataError(
            f"pool '{spec.pool}' has images of {by(pool.shape)}, the victim takes {by(splits.test.shape)} "
            f"(channels x height x width); fix: --pool {spec.pool},{reshape_options(pool.shape, splits.test.shape)}"
        )
    pool = _without_overlap(spec, pool, splits)
    for attack in spec.attacks:
        attack.check(spec.budgets, len(pool))
    return pool


def _without_overlap(spec: AssessmentSpec, pool: ImageSet, splits: Splits) -> ImageSet:
    owned = {"test": splits.test, "validation": splits.validation, "train": splits.train}
    shared = {name: overlap(pool, images) for name, images in owned.items()}
    if spec.drop_overlap:
        keep = ~torch.stack(list(shared.values())).any(dim=0)
        if not bool(keep.any()):
            raise DataError(f"pool '{spec.pool}': every image is in the victim's data; fix: choose another pool")
        return pool.take(keep.nonzero()[:, 0])
    counts = [f"{int(rows.sum()):,} with its {name} images" for name, rows in shared.items() if bool(rows.any())]
    if counts:
        raise DataError(
            f"pool '{spec.pool}' shares images with the victim: of {len(pool):,}, {', '.join(counts)}; "
            "expected none, since they would flatter the attack; fix: --drop-overlap leaves them out; for an attacker "
            "with data like the victim's, train on REF,pool=0.2 and attack with --pool REF,pool=0.2,split=pool"
        )
    return pool


def _clone_arch(spec: AssessmentSpec, predictor: Predictor, pool: ImageSet) -> str:
    own = predictor.arch if predictor.arch in arch_names() else None
    arch = spec.clone_arch if spec.clone_arch is not None else own
    if arch is None:
        raise OptionError(
            f"victim '{predictor.reference}' has no registered architecture for its clones; fix: add --clone-arch, one of "
            f"{', '.join(arch_names())}"
        )
    create_network(arch, num_classes=predictor.num_classes, input_shape=pool.shape, seed=0)  # refuses images too small
    return arch
