"""``modelmoat train``: make a victim."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modelmoat.training import FitSettings, World

HELP = """Train a victim and write it to a folder.

An interrupted training goes on after its last whole epoch when the same command is run again.

torch's launcher trains on several GPUs: each process takes its share of every batch, and the steps stay the same.

In the folder, training.jsonl tells of each epoch: loss and its terms, learning rate, validation accuracy.

Examples:

  modelmoat train standard --data digits --arch small_cnn --out victims/digits

  modelmoat train standard --data fashion-mnist --arch lenet --out victims/fashion

  modelmoat train ini:ood=photo-patches --data fashion-mnist --arch lenet --out victims/isolated

  modelmoat train standard --data parquet:my/images,size=32 --arch resnet20 --epochs 20 --out victims/mine

  torchrun --nproc-per-node 2 -m modelmoat train standard --data cifar10 --arch resnet20 --device cuda --out victims/color
"""


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe, such as standard; see [bold]modelmoat list recipes[/bold].")],
    data: Annotated[str, typer.Option(help="Images to train on, such as digits or folder:DIR,size=32.")],
    arch: Annotated[str, typer.Option(help="Architecture; see [bold]modelmoat list archs[/bold].")],
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 20,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.05,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    augment: Annotated[
        str, typer.Option(help="none, crop, crop_flip, or auto: crop_flip for color photographs.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    data_seed: Annotated[int, typer.Option(help="Seed of the splits.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda; under torchrun, a GPU for each process.")] = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Train a victim."""
    from modelmoat.cli.options import by_option_names, checked_device, read_augment, read_precision
    from modelmoat.training import FitSettings, launched

    names = {"epochs": "--epochs", "lr": "--lr", "batch_size": "--batch-size"}
    with launched() as world, _heard_once(world), by_option_names(names):
        fit = FitSettings(
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            augment=read_augment(augment),
            precision=read_precision(precision),
        )
        own = world.own_device(checked_device(device))
        train_and_tell(recipe, data, arch, out, fit, seed=seed, data_seed=data_seed, device=own, world=world)
        typer.echo(f"Next: modelmoat assess {out} --pool REF --budget 100,1000 --out runs/first")


@contextmanager
def _heard_once(world: World) -> Iterator[None]:
    """Let one process alone print, warn and show bars."""
    if world.is_main:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def train_and_tell(
    recipe: str,
    data: str,
    arch: str,
    out: Path,
    fit: FitSettings,
    *,
    seed: int = 0,
    data_seed: int = 0,
    device: str = "cpu",
    world: World | None = None,
) -> None:
    """Train with a bar, write the artifact, and say how good it is."""
    from modelmoat.cli.progress import bars
    from modelmoat.core.files import disk_errors
    from modelmoat.data import load_splits
    from modelmoat.recipes import TrainingJob, parse_recipe, train_victim
    from modelmoat.training import ALONE

    chosen = parse_recipe(recipe)
    splits = load_splits(data, seed=data_seed)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)  # said now rather than after the first epoch
    with bars() as shown:
        job = TrainingJob(
            splits=splits,
            data=data,
            data_seed=data_seed,
            arch=arch,
            fit=fit,
            seed=seed,
            directory=out,
            device=device,
            world=world or ALONE,
            progress=lambda done, total, words: shown.show(f"{chosen.name} {arch}", done, total, words),
        )
        card = train_victim(chosen, job)
    typer.echo(
        f"{out}: {card.arch} on {card.data}, validation accuracy {card.metrics['validation_accuracy']:.1%}, "
        f"test accuracy {card.metrics['test_accuracy']:.1%} ({card.test_size:,} images)"
    )
    if card.quantization:
        typer.echo(f"int8: {card.quantization.words()}")


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train", help=HELP)(train)
