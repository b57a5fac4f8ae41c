"""What test_distributed.py runs in several processes: torchrun together.py FOLDER END; results go to FOLDER/RANK.pt.

The threads that are left when a process ends go to FOLDER/RANK.threads."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import ModelmoatError
from modelmoat.data import load_splits
from modelmoat.models import create_network
from modelmoat.recipes import Recipe, TrainingJob, create_recipe
from modelmoat.training import FitSettings, Terms, Trained, World, fit, launched, make_optimizer

ROWS, BATCH = 38, 7  # five batches of seven, which two processes share unevenly, and one of three, too few for both
FILE = "images.npz"


class Killed(BaseException):
    """The process ends here."""


def settings(**changes: Any) -> FitSettings:
    values: dict[str, Any] = {"epochs": 3, "batch_size": BATCH, "lr": 0.05, "augment": "crop", "precision": "float32"}
    return FitSettings(**(values | changes))


def images() -> Tensor:
    return torch.randint(0, 256, (ROWS, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def labels() -> Tensor:
    return torch.randint(0, 4, (ROWS,), generator=torch.Generator().manual_seed(1))


def untrained(arch: str) -> nn.Module:
    return create_network(arch, num_classes=4, input_shape=(1, 12, 12), seed=0)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def plain(world: World, arch: str, **options: Any) -> tuple[dict[str, Tensor], list[float]]:
    """Weights after a standard training, and the loss of each epoch."""
    network = untrained(arch)
    result = fit(network, images(), labels(), settings(), seed=3, world=world, **options)
    return state(network), result.losses


def beside(world: World, *, killed: bool = False, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of a network and of a student that learns beside it, with momentum; killed in the second epoch or not."""
    network, student = untrained("lenet"), untrained("lenet")
    optimizer = make_optimizer(student, settings(lr=0.02))
    where = [0, 0]

    def on_epoch(number: int) -> None:
        where[:] = number, 0

    def objective(trained: nn.Module, inputs: Tensor, targets: Tensor) -> Terms:
        where[1] += 1
        if killed and where == [1, 3]:
            raise Killed
        terms = {
            "label": F.cross_entropy(trained(inputs), targets),
            "like": F.mse_loss(trained(inputs), student(inputs)),
        }
        optimizer.zero_grad()
        F.cross_entropy(student(inputs), targets).backward()
        optimizer.step()
        return terms

    companions = {"student": Trained(student, optimizer)}
    fit(
        network,
        images(),
        labels(),
        settings(),
        seed=3,
        objective=objective,
        companions=companions,
        on_epoch=on_epoch,
        world=world,
        **options,
    )
    return state(network), state(student)


def reached(world: World) -> list[float | None]:
    """Gradients of parameters that all processes reach, that the last one reaches, and that none does."""
    parameters = [nn.Parameter(torch.zeros(())) for _ in range(3)]
    parameters[0].grad = torch.tensor(2.0 + world.rank)
    if world.rank == world.size - 1:
        parameters[1].grad = torch.tensor(8.0)
    world.average_gradients(parameters, 0.75 if world.is_main else 0.25)
    return [None if each.grad is None else float(each.grad) for each in parameters]


def recipe_trained(world: World, recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    """Weights of a victim that a recipe trained."""
    data = f"npz:{folder.parent / FILE}"
    network = untrained("small_cnn")
    job = TrainingJob(
        splits=load_splits(data),
        data=data,
        data_seed=0,
        arch="small_cnn",
        fit=settings(epochs=2),
        seed=0,
        directory=folder,
        world=world,
    )
    recipe.train(network, TrainingJob(**(vars(job) | {"ood": recipe.load_ood(job)})))
    return state(network)


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ModelmoatError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def run(world: World, folder: Path) -> dict[str, Any]:
    steps: list[int] = []

    def progress(done: int, total: int, words: str) -> None:
        steps.append(done)

    results: dict[str, Any] = {
        "lenet": plain(world, "lenet", log=folder / "log", checkpoint=folder / "whole", progress=progress),
        "batch_norm": plain(world, "small_cnn"),
        "beside": beside(world),
        "reached": reached(world),
        "ini": recipe_trained(world, create_recipe("ini", student_steps=1, ood="noise", ood_images=40), folder / "ini"),
        "adversarial": recipe_trained(world, create_recipe("adversarial", steps=1), folder / "adversarial"),
    }
    try:
        beside(world, killed=True, checkpoint=folder / "killed")
    except Killed:
        results["killed"] = sorted(path.name for path in folder.iterdir())
    results["resumed"] = beside(world, checkpoint=folder / "killed")
    results["apart"] = error_of(
        lambda: plain(world, "lenet", checkpoint=folder / ("whole" if world.is_main else "none"))
    )
    diverging = settings(lr=1e30, warmup=0.0)
    results["diverged"] = error_of(lambda: fit(untrained("lenet"), images(), labels(), diverging, seed=0, world=world))
    return results | {"steps": steps}


def threads() -> str:
    """Names of this process's threads, those of libraries included."""
    return "\n".join(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


def main(folder: Path, end: str) -> None:
    with launched() as world:
        rank = world.rank
        atexit.register(lambda: (folder / f"{rank}.threads").write_text(threads()))
        torch.save(run(world, folder) if end == "raise" else {}, folder / f"{world.rank}.pt")
        if not world.is_main and end == "raise":
            raise ModelmoatError("only the last process fails")
        if not world.is_main and end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        world.from_main(lambda: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
