from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import POOL, Command

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmoat.quantization.latency._TIMED", {1: 2, 64: 1})


@pytest.mark.filterwarnings("default:victim .* has the defense")
def test_an_exported_file_is_assessed_at_once(
    modelmoat: Command, assess: Command, tiny_victim: Path, tmp_path: Path
) -> None:
    """The command that export prints works."""
    file = tmp_path / "model.onnx"
    done = modelmoat("export", tiny_victim, "--out", file, "--defense", "top_k:k=2")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{file}: {tiny_victim} behind top_k:k=2, float32, ")
    assert "top-1 of the victim 100.00%" in lines[0]
    assert lines[1].startswith("One call: victim batch 1 ")
    assert lines[2] == f"Next: modelmoat assess {file} --pool REF --budget 100,1000 --out runs/exported"
    attacked = assess("--json", victim=file)
    assert attacked.code == 0, attacked.err
    assert f"Warning: victim '{file}' has the defense 'top_k:k=2' inside" in attacked.err
    assert "The victim’s file has top_k:k=2 inside." in attacked.err
    record = json.loads(attacked.out.splitlines()[0])
    assert (record["victim_arch"], record["clone_arch"], record["data"]) == (
        "small_cnn",
        "small_cnn",
        "digits,pool=0.4",
    )
    assert (record["defense"], record["defense_inside"]) == ("none", "top_k:k=2")
    assert POOL in record["pool"]
    assert record["victim_accuracy"] > 0.8


def test_what_came_of_an_export_is_json(modelmoat: Command, tiny_victim: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    done = modelmoat("export", tiny_victim, "--out", file, "--images", 100, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["path"] == str(file)
    assert (found["agreement"], found["images"], found["int8"]) == (1.0, 100, False)


def test_misuse_is_said_in_one_line(modelmoat: Command, tiny_victim: Path, tmp_path: Path) -> None:
    for options, words in (
        (["--out", tmp_path / "model.pt"], "expected a file that ends in .onnx"),
        (["--out", tmp_path / "model.onnx", "--min-agreement", 2], "--min-agreement 2.0: expected a share in [0, 1]"),
        (["--out", tmp_path / "model.onnx", "--defense", "queen"], "remembers earlier queries"),
    ):
        done = modelmoat("export", tiny_victim, *options)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert words in done.err
