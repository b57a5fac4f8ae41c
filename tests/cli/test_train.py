"""Training in several processes, from the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelmoat.models import load_artifact

Launch = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = ("--arch", "lenet", "--batch-size", "32", "--precision", "float32")


def test_torchrun_trains_the_same_victim_and_tells_once(torchrun: Launch, modelmoat: Callable, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = tmp_path / "images.npz"
    np.savez(images, x=random.integers(0, 256, (120, 12, 12), dtype=np.uint8), y=np.arange(120) % 4)
    train = ("train", "standard", "--data", f"npz:{images}", "--epochs", 2, *OPTIONS)
    done = torchrun("-m", "modelmoat", *train, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == [f"{tmp_path / 'two'}:", "Next:"]
    assert modelmoat(*train, "--out", tmp_path / "one").code == 0
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        ".lock",
        "model.json",
        "model.safetensors",
        "training.jsonl",
    ]
    (two, card), (one, expected) = load_artifact(tmp_path / "two"), load_artifact(tmp_path / "one")
    weights = two.state_dict()
    assert max(float((weights[name] - value).abs().max()) for name, value in one.state_dict().items()) < 1e-5
    assert card.fingerprint == expected.fingerprint


@pytest.mark.slow
def test_torchrun_tells_of_misuse_once(torchrun: Launch, tmp_path: Path) -> None:
    done = torchrun(
        "-m", "modelmoat", "train", "standard", "--data", "digits", "--epochs", 0, *OPTIONS, "--out", tmp_path / "none"
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("Error: --epochs 0: expected at least 1") == 1
    assert not (tmp_path / "none").exists()
