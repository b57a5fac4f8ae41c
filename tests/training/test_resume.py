from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelmoat.core.errors import RunError
from modelmoat.training import FitResult, FitSettings, TrainingDiverged, fit

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
