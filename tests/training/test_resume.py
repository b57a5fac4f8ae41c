from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import RunError
from modelmoat.training import FitResult, FitSettings, Trained, TrainingDiverged, fit, make_optimizer, sum_backward

MakeNetwork = Callable[[], nn.Module]
STEPS_PER_EPOCH = 5  # 41 images in batches of 8, the last of 9


class Killed(BaseException):
    """The process ends here."""


def settings(**changes: Any) -> FitSettings:
    values: dict[str, Any] = {"epochs": 4, "batch_size": 8, "lr": 0.05, "augment": "none", "precision": "float32"}
    return FitSettings(**(values | changes))


def kill_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, words: str) -> None:
        if done == step:
            raise Killed

    return progress


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    other = second.state_dict()
    assert [name for name, value in first.state_dict().items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0},
        {"nesterov": False},
        {"optimizer": "adamw", "lr": 0.01},
        {"augment": "crop_flip"},
        {"optimizer": "adamw", "lr": 0.01, "augment": "crop", "precision": "bfloat16"},
    ],
    ids=str,
)
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor, changes: dict[str, Any]
) -> None:
    checkpoint, how = tmp_path / "made" / "checkpoint", settings(**changes)
    whole = make_network()
    fit(whole, pixels, labels, how, seed=3)
    for step in (STEPS_PER_EPOCH + 3, 3 * STEPS_PER_EPOCH + 1):
        with pytest.raises(Killed):
            fit(make_network(), pixels, labels, how, seed=3, checkpoint=checkpoint, progress=kill_at(step))
    torch.rand(7)
    resumed = make_network()
    result = fit(resumed, pixels, labels, how, seed=3, checkpoint=checkpoint)
    assert_same_weights(resumed, whole)
    assert not resumed.training
    assert len(result.losses) == 1
    assert result.steps == 4 * STEPS_PER_EPOCH
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_finished_training_is_restored_without_a_step(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor
) -> None:
    first, second = make_network(), make_network()
    fit(first, pixels, labels, settings(epochs=1), seed=0, checkpoint=tmp_path / "c")
    result = fit(second, pixels, labels, settings(epochs=1), seed=0, checkpoint=tmp_path / "c", progress=kill_at(1))
    assert result == FitResult(STEPS_PER_EPOCH, 1, "float32", [])
    assert_same_weights(first, second)


def test_another_training_refuses_the_checkpoint(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor
) -> None:
    path = tmp_path / "c"
    fit(make_network(), pixels, labels, settings(epochs=1), seed=0, checkpoint=path, fingerprint="aa")
    before, network = path.read_bytes(), make_network()
    with pytest.raises(RunError, match=r'belongs to a training with other settings or data \("aa", this one is "bb"\)'):
        fit(network, pixels, labels, settings(epochs=1), seed=0, checkpoint=path, fingerprint="bb")
    assert path.read_bytes() == before
    assert_same_weights(network, make_network())


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor, keep: int
) -> None:
    path = tmp_path / "c"
    fit(make_network(), pixels, labels, settings(epochs=1), seed=0, checkpoint=path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"is not a readable checkpoint.*fix: delete it to train from the start"):
        fit(make_network(), pixels, labels, settings(epochs=1), seed=0, checkpoint=path)


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor, limit_file_size: Callable[[int], None]
) -> None:
    path = tmp_path / "c"

    def fill(done: int, total: int, words: str) -> None:
        if done == STEPS_PER_EPOCH + 1:
            limit_file_size(1000)

    with pytest.raises(RunError, match=r"cannot write .*File too large; .*fix"):
        fit(make_network(), pixels, labels, settings(), seed=0, checkpoint=path, progress=fill)
    limit_file_size(-1)
    assert list(tmp_path.iterdir()) == [path]
    assert len(fit(make_network(), pixels, labels, settings(), seed=0, checkpoint=path).losses) == 3


def test_a_diverged_epoch_is_not_kept(tmp_path: Path, pixels: Tensor, labels: Tensor) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    how = settings(lr=1e30, warmup=0.0, momentum=0.0)
    with pytest.raises(
        TrainingDiverged,
        match=r"mean loss of epoch 1 is (nan|inf) at a learning rate of 1e\+30.*lower the learning rate",
    ):
        fit(network, pixels, labels, how, seed=0, checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_student_that_learns_beside_is_resumed_with_its_optimizer(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor
) -> None:
    """The network imitates a student that is itself on the move, with momentum."""

    def train(**options: Any) -> tuple[nn.Module, nn.Module]:
        network, student = make_network(), nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        nn.init.constant_(student[1].weight, 0.01)
        nn.init.zeros_(student[1].bias)
        optimizer = make_optimizer(student, settings(lr=0.01))

        def objective(trained: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            F.cross_entropy(student(inputs), targets).backward()
            optimizer.step()
            return F.mse_loss(trained(inputs), student(inputs).detach())

        companions = {"student": Trained(student, optimizer)}
        fit(network, pixels, labels, settings(), seed=3, objective=objective, companions=companions, **options)
        return network, student

    whole = train()
    with pytest.raises(Killed):
        train(checkpoint=tmp_path / "c", progress=kill_at(STEPS_PER_EPOCH + 3))
    for resumed, expected in zip(train(checkpoint=tmp_path / "c"), whole, strict=True):
        assert_same_weights(resumed, expected)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_has_each_epoch_once(tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor) -> None:
    def train(name: str, **options: Any) -> None:
        fit(
            make_network(),
            pixels,
            labels,
            settings(),
            seed=3,
            checkpoint=tmp_path / f"{name}.c",
            log=tmp_path / name,
            evaluate=lambda network: {"accuracy": 0.5},
            **options,
        )

    train("whole")
    expected = lines(tmp_path / "whole")
    assert [row["epoch"] for row in expected] == [1, 2, 3, 4]
    assert [row["lr"] for row in expected] == [
        pytest.approx(settings().lr_at((5 * epoch - 0.5) / 20)) for epoch in (1, 2, 3, 4)
    ]
    assert all(row["accuracy"] == 0.5 and row["terms"] == {"loss": row["loss"]} for row in expected)
    with pytest.raises(Killed):
        train("killed", progress=kill_at(2 * STEPS_PER_EPOCH + 1))
    assert lines(tmp_path / "killed") == expected[:2]
    with (tmp_path / "killed").open("a") as file:  # an epoch whose checkpoint was never written
        file.write(json.dumps(expected[2] | {"loss": 7.0}) + "\n")
    train("killed")
    assert lines(tmp_path / "killed") == expected
    (tmp_path / "killed.c").unlink()
    train("killed", progress=None)
    assert lines(tmp_path / "killed") == expected


def test_a_log_of_something_else_is_not_overwritten(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor
) -> None:
    path = tmp_path / "log"
    path.write_text("dear diary\n")
    with pytest.raises(RunError, match=r"'dear diary'\); fix: delete the file"):
        fit(make_network(), pixels, labels, settings(), seed=0, log=path)
    assert path.read_text() == "dear diary\n"


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_a_training_that_diverges_later_keeps_its_last_good_checkpoint(
    tmp_path: Path, make_network: MakeNetwork, pixels: Tensor, labels: Tensor, where: str
) -> None:
    """The loss of the last step may be a number although the step made the weights none."""
    network, seen = make_network(), []

    def objective(trained: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen.append(len(inputs))
        benign = F.cross_entropy(trained(inputs), targets)
        last = len(seen) == 2 * STEPS_PER_EPOCH
        return {"benign": benign, "bad": benign * (torch.inf if last and where == "loss" else 1.0)}

    def backward(terms: Mapping[str, Tensor]) -> None:
        sum_backward(terms)
        if len(seen) == 2 * STEPS_PER_EPOCH and where == "weights":
            network.head.weight.grad = torch.full_like(network.head.weight, torch.inf)

    path = tmp_path / "c"
    words = r"is inf .*\(benign \d.*, bad inf\)" if where == "loss" else r"is \d.* its weights are not finite"
    words += rf".*, in another folder; {path} keeps epoch 1 and"
    with pytest.raises(TrainingDiverged, match=words):
        fit(network, pixels, labels, settings(), seed=0, objective=objective, backward=backward, checkpoint=path)
    good = make_network()
    result = fit(good, pixels, labels, settings(epochs=1), seed=0, checkpoint=path)
    assert result.losses == []
    assert all(bool(value.isfinite().all()) for value in good.state_dict().values())
