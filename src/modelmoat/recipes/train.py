"""From a recipe and data to an artifact on disk."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from modelmoat import __version__
from modelmoat.core.errors import RunError
from modelmoat.core.files import disk_errors
from modelmoat.core.locks import locked
from modelmoat.core.runs import now
from modelmoat.core.seeds import derive
from modelmoat.models import ModelCard, create_network, load_card
from modelmoat.models.artifact import CARD_FILE
from modelmoat.recipes.base import Recipe, TrainingJob
from modelmoat.training import FitResult, pixel_statistics


def train_victim(recipe: Recipe, job: TrainingJob) -> ModelCard:
    """Train a victim and write its artifact to ``job.directory``.

    An interrupted training goes on after its last whole epoch. A finished one is not trained again. Where several processes
    train together, each calls this with the same job, and the first one alone writes.

    Raises:
        RunError: the directory holds a victim or a checkpoint of another training, is in use, or cannot be written.
        TrainingDiverged: the loss is no longer a number.
        DataError, OptionError: out-of-distribution images that cannot be used.
    """
    job = replace(job, ood=recipe.load_ood(job))
    fingerprint, world = job.fingerprint(recipe), job.world
    card = world.from_main(lambda: _finished(job, fingerprint))
    if card:
        return card
    with locked(job.directory) if world.is_main else nullcontext():
        card = world.from_main(lambda: _finished(job, fingerprint))
        return card or _trained(recipe, job, fingerprint)


def _trained(recipe: Recipe, job: TrainingJob, fingerprint: str) -> ModelCard:
    train = job.splits.train
    mean, std = pixel_statistics(train)
    network = create_network(
        job.arch,
        num_classes=train.num_classes,
        input_shape=train.shape,
        seed=derive(job.seed, "weights"),
        mean=mean,
        std=std,
    )
    result = recipe.train(network, job)

    def finish() -> ModelCard:
        card = recipe.finish(network, result, job, _card(recipe, job, result, fingerprint, mean, std))
        _remove_checkpoints(job)
        return card

    return job.world.from_main(finish)


def _remove_checkpoints(job: TrainingJob) -> None:
    for path in job.checkpoints:
        path.unlink(missing_ok=True)


def _finished(job: TrainingJob, fingerprint: str) -> ModelCard | None:
    """The card of a victim that is there already."""
    with disk_errors(job.directory):
        if not (job.directory / CARD_FILE).exists():
            return None
    card = load_card(job.directory)
    if card.fingerprint != fingerprint:
        raise RunError(
            f"{job.directory} holds another victim ({card.recipe}, {card.arch}, data {card.data}); "
            "fix: choose another --out folder, or remove this one"
        )
    _remove_checkpoints(job)
    return card


def _card(
    recipe: Recipe,
    job: TrainingJob,
    result: FitResult,
    fingerprint: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> ModelCard:
    train = job.splits.train
    return ModelCard(
        arch=job.arch,
        num_classes=train.num_classes,
        input_shape=train.shape,
        mean=mean,
        std=std,
        class_names=train.class_names,
        recipe=recipe.spec,
        data=job.data,
        data_seed=job.data_seed,
        data_digests=_digests(job),
        ood=job.ood.reference if job.ood else None,
        test_size=len(job.splits.test),
        fingerprint=fingerprint,
        package_version=__version__,
        created=now(),
        precision=result.precision,
    )


def _digests(job: TrainingJob) -> dict[str, str]:
    splits = job.splits
    named = {
        "train": splits.train,
        "validation": splits.validation,
        "pool": splits.pool,
        "test": splits.test,
        "ood": job.ood,
    }
    return {name: images.digest for name, images in named.items() if images is not None}
