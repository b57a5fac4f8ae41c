"""Whatever is wrong with a command, it ends with 2 and one line that says what was given, the limit and the fix."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--attack", "nockoff"], ["unknown attack 'nockoff'", "did you mean 'knockoff'?", "jbda"]),
        (["--attack", "jbda:sted=1"], ["no parameter 'sted'", "did you mean 'step'?"]),
        (["--attack", "jbda:step"], ["'step' is not param=value"]),
        (["--attack", "jbda:step=far"], ["jbda:step=far", "a number", "jbda:step=0.5"]),
        (["--attack", "jbda:step=-1"], ["jbda:step=-1.0", "above 0"]),
        (["--attack", "knockoff:targets=both"], ["targets=both", "soft, label"]),
        (["--attack", "jbda:seeds=1000"], ["jbda:seeds=1000", "575 images", "fix"]),
        (["--attack", ""], ["unknown attack ''"]),
        (["--defense", "roundin"], ["unknown defense 'roundin'", "did you mean 'rounding'?"]),
        (["--defense", "rounding:decimals=9"], ["decimals=9", "0 to 6"]),
        (["--defense", "top_k:k=11"], ["top_k:k=11", "10 classes"]),
        (["--pool", "digts"], ["unknown data source 'digts'", "did you mean 'digits'?"]),
        (["--pool", "digits,siz=8"], ["no option 'siz'", "did you mean 'size'?"]),
        (["--pool", "digits,split=pool,pool=2"], ["pool=2", "up to"]),
        (["--pool", ""], ["names no source"]),
        (["--pool", "npz:none.npz"], ["none.npz is not a file", "fix"]),
        (["--pool", "folder:none"], ["none", "fix"]),
        (["--pool", "parquet:none"], ["none", "fix"]),
        (["--pool", "photo-patches,n=40"], ["3x32x32", "1x8x8", "fix: --pool photo-patches,n=40,grey,size=8"]),
        (
            ["--pool", "digits"],
            ["of 1,438, 144 with its validation images, 719 with its train images", "--drop-overlap"],
        ),
        (["--pool", "digits,split=test", "--drop-overlap"], ["every image is in the victim's data", "fix"]),
        (["--data", "digits,size=16"], ["8, 8", "16, 16", "fix"]),
        (["--data", "photo-patches,grey,size=8,n=40"], ["10 classes", "has 2", "fix"]),
        (["--data", ""], ["names no source"]),
        (["--budget", "576"], ["budget 576", "575 images", "fix: a budget of at most 575"]),
        (["--budget", "10,9999"], ["budget 9,999"]),
        (["--budget", "ten"], ["--budget ten", "whole numbers", "--budget 100,1000"]),
        (["--budget", "10;25"], ["--budget 10;25"]),
        (["--budget", "1e3"], ["--budget 1e3"]),
        (["--budget", "0"], ["--budget 0", "at least 1"]),
        (["--budget", "-5"], ["--budget -5", "at least 1"]),
        (["--budget", ""], ["--budget", "at least one number"]),
        (["--seed", "-1"], ["--seed -1", "at least 0"]),
        (["--seed", "one"], ["--seed one", "whole numbers"]),
        (["--seed", ","], ["--seed ,", "at least one number"]),
        (["--seed", str(2**63)], ["9223372036854775808", "from 0 to 9223372036854775807"]),
        (["--output", "top0"], ["top0", "at least one class"]),
        (["--output", "top"], ["'top'", "probabilities, label, or topK"]),
        (["--output", "logits"], ["'logits'", "probabilities, label, or topK"]),
        (["--output", "top11"], ["top11", "10 classes", "fix: top10"]),
        (["--device", "gpu"], ["--device gpu", "expected cpu, cuda or cuda:N"]),
        (["--device", "cpu:x"], ["--device cpu:x", "expected"]),
        (["--device", "cuda:-1"], ["--device cuda:-1", "expected"]),
        (["--device", "cuda:99"], ["--device cuda:99", "fix: --device"]),
        (["--fail-above", "fidelity"], ["--fail-above fidelity", "METRIC=LIMIT"]),
        (["--fail-above", ""], ["--fail-above", "METRIC=LIMIT"]),
        (["--fail-above", "fidelty=0.8"], ["fidelty=0.8", "did you mean 'fidelity'?"]),
        (["--fail-above", "fidelity=high"], ["fidelity=high", "0 to 1", "fidelity=0.8"]),
        (["--fail-above", "fidelity=80"], ["fidelity=80", "0 to 1"]),
        (["--fail-above", "fidelity=nan"], ["fidelity=nan", "0 to 1"]),
        (["--robust", "pdg"], ["unknown evasion attack 'pdg'", "did you mean 'pgd'?", "apgd, fgsm, pgd"]),
        (["--robust", "pgd:epsilon=8/255,nrom=l2"], ["no parameter 'nrom'", "did you mean 'norm'?"]),
        (["--robust", "pgd:epsilon=-1"], ["pgd:epsilon=-1.0", "a number in [0, 1]", "8/255"]),
        (["--robust", "pgd:epsilon=8/x"], ["pgd:epsilon=8/x", "a number"]),
        (["--robust", ""], ["unknown evasion attack ''"]),
        (["--robust-images", "0"], ["--robust-images 0", "at least 1"]),
        (["--clone-arch", "resnet9"], ["unknown architecture 'resnet9'", "did you mean 'resnet"]),
        (["--clone-arch", "lenet"], ["'lenet' takes images of at least 12x12", "fix"]),
        (["--clone-epochs", "0"], ["--clone-epochs 0", "at least 1"]),
        (["--clone-min-steps", "-1"], ["--clone-min-steps -1", "0 or more"]),
        (["--clone-lr", "0"], ["--clone-lr 0.0", "positive"]),
        (["--clone-lr", "nan"], ["--clone-lr nan", "positive"]),
        (["--batch-size", "0"], ["--batch-size 0", "at least 1"]),
        (["--precision", "float16"], ["--precision float16", "auto, float32, bfloat16"]),
        (["--price", "inf"], ["--price inf", "0 or more"]),
        (["--target", "70"], ["--target 70.0", "(0, 1]"]),
    ],
    ids=" ".join,
)
def test_options(options: list[str], words: list[str], refused: Refused, tmp_path: Path) -> None:
    refused(*options, words=tuple(words))
    assert not (tmp_path / "run" / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("none", ["no model 'none'", "Possible: an artifact folder"]),
        ("none.onnx", ["no model 'none.onnx'"]),
        ("python:none:build", ["no Python module 'none'"]),
        ("python:json", ["write python:module:function"]),
        ("python:json:dums", ["no function 'dums'", "did you mean 'dumps'?"]),
        ("python:json:dumps", ["dumps() fails", "fix"]),
        ("http://localhost/model", ["not available in this version"]),
        ("replay:none.journal", ["there is no file none.journal"]),
    ],
)
def test_victims_that_are_not_there(victim: str, words: list[str], refused: Refused) -> None:
    if not victim.startswith("http") and "fails" not in words[0]:  # those two are there
        refused(words=tuple(words), victim=victim)
    refused("--data", "digits,pool=0.4", words=tuple(words), victim=victim)


@pytest.mark.parametrize("kind", ["empty", "garbage", "cut"])
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_damaged_artifacts(kind: str, name: str, tiny_victim: Path, tmp_path: Path, refused: Refused) -> None:
    victim = shutil.copytree(tiny_victim, tmp_path / "victim")
    raw = (victim / name).read_bytes()
    (victim / name).write_bytes({"empty": b"", "garbage": b"\xff\x00 nonsense", "cut": raw[: len(raw) // 2]}[kind])
    refused(words=(name, "fix"), victim=victim)


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage"], ids=["empty", "garbage"])
@pytest.mark.parametrize("suffix", ["onnx", "pt", "pt2", "journal"])
def test_damaged_model_files(content: bytes, suffix: str, tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / f"model.{suffix}"
    file.write_bytes(content)
    victim = f"replay:{file}" if suffix == "journal" else file
    refused("--data", "digits,pool=0.4", "--allow-pickle", words=(str(file), "fix"), victim=victim)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04garbage"], ids=["empty", "garbage"])
def test_damaged_data_files(content: bytes, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    refused("--pool", f"npz:{tmp_path / 'set.npz'}", words=("cannot read", "set.npz", "fix"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(content)
    refused("--pool", f"parquet:{tmp_path / 'set'}", words=("train.parquet", "fix"))
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "folder" / "cat" / "a.png").write_bytes(content)
    refused("--pool", f"folder:{tmp_path / 'folder'},test=0", words=("a.png", "fix"))


def test_pickled_data_are_never_opened(tmp_path: Path, refused: Refused) -> None:
    np.savez(tmp_path / "set.npz", x=np.array([{}, []], dtype=object), y=[0, 1])
    refused("--pool", f"npz:{tmp_path / 'set.npz'}", "--allow-pickle", words=("could run any code", "fix"))


def test_pickled_models_are_refused_unless_allowed(tmp_path: Path, refused: Refused, assess: Callable) -> None:
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tmp_path / "net.pt")
    foreign = ("--data", "digits,pool=0.4", "--clone-arch", "small_cnn")
    refused(*foreign, words=("can run any code", "pass --allow-pickle"), victim=tmp_path / "net.pt")
    assert assess(*foreign, "--allow-pickle", victim=tmp_path / "net.pt").code == 0


def test_a_model_without_a_registered_architecture(tmp_path: Path, refused: Refused) -> None:
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tmp_path / "net.pt")
    net = {"victim": tmp_path / "net.pt"}
    refused("--allow-pickle", words=("does not say which data", "fix: add --data REF"), **net)
    refused("--allow-pickle", "--data", "digits,pool=0.4", words=("add --clone-arch", "small_cnn"), **net)


def test_nan_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("nan_victim.py").write_text("def build():\n    return lambda x: x.flatten(1)[:, :10] * float('nan')\n")
    options = ("--data", "digits,pool=0.4", "--clone-arch", "small_cnn")
    refused(*options, words=("NaN or infinite scores", "must be finite", "fix"), victim="python:nan_victim:build")


def test_an_out_folder_that_is_a_file(tmp_path: Path, refused: Refused, modelmoat: Callable) -> None:
    (tmp_path / "file").write_text("mine")
    refused("--out", tmp_path / "file", words=(f"{tmp_path / 'file'} is a file, not a folder", "fix"))
    refused("--out", tmp_path / "file" / "run", words=("Not a directory", "choose another folder"))
    done = modelmoat("train", "standard", "--data", "digits", "--arch", "small_cnn", "--out", tmp_path / "file")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "fix: a file of that name is in the way, choose another folder" in done.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where nobody can write")
def test_an_out_folder_that_cannot_be_written(refused: Refused) -> None:
    refused("--out", "/proc/modelmoat/run", words=("cannot write /proc/modelmoat/run", "choose another folder"))


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_a_full_disk_loses_nothing_that_was_paid(
    calls: int, refused: Refused, assess: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write is synced: the disk is full from the n-th sync on, and has room again later."""
    left = [calls]
    sync = os.fsync

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(words=("cannot write", "No space left on device", "free some space"))
    assert assess().code == 0
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 4  # two budgets, ceiling and floor
    assert not list((tmp_path / "run").rglob(".*.json*"))


def test_errors_of_the_file_system_that_nobody_foresaw(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")

    monkeypatch.setattr("modelmoat.assessment.run.set_scene", denied)
    refused(words=("Permission denied", "/somewhere/else", "fix"))


def test_a_folder_in_use(refused: Refused, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        refused(words=("is in use by another modelmoat process", "fix"))


def test_a_folder_of_another_setting(refused: Refused, assess: Callable) -> None:
    assert assess("--budget", "10").code == 0
    refused("--budget", "10", "--output", "label", words=("output was 'probabilities' and is now 'label'", "fix"))


def test_wrong_words_after_train_list_and_report(modelmoat: Callable, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "v"]
    for words, *arguments in (
        (
            "unknown recipe 'standart'; did you mean 'standard'?",
            "train",
            "standart",
            "--data",
            "digits",
            "--arch",
            "lenet",
            *out,
        ),
        ("unknown architecture 'x'", "train", "standard", "--data", "digits", "--arch", "x", *out),
        ("at least 12x12, got 8x8", "train", "standard", "--data", "digits", "--arch", "lenet", *out),
        ("unknown data source 'd'", "train", "standard", "--data", "d", "--arch", "lenet", *out),
        (
            "--augment flip: expected",
            "train",
            "standard",
            "--data",
            "digits",
            "--arch",
            "small_cnn",
            "--augment",
            "flip",
            *out,
        ),
        ("--epochs 0: expected", "train", "standard", "--data", "digits", "--arch", "small_cnn", "--epochs", 0, *out),
        (
            "--device tpu: expected",
            "train",
            "standard",
            "--data",
            "digits",
            "--arch",
            "small_cnn",
            "--device",
            "tpu",
            *out,
        ),
        ("unknown list 'attack'; did you mean 'attacks'?", "list", "attack"),
        ("has no run.json", "report", tmp_path),
        ("has no run.json", "report", tmp_path / "none"),
    ):
        done = modelmoat(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
        assert words in done.err
    assert not (tmp_path / "v" / "model.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["assess"], "Missing argument"),
        (["assess", "v", "--pool", "digits", "--out", "o"], "Missing option '--budget'"),
        (["assess", "v", "--budget", "5", "--out", "o"], "Missing option '--pool'"),
        (["assess", "v", "--pool", "digits", "--budget", "5"], "Missing option '--out'"),
        (["assess", "v", "--clone-epochs", "few"], "Invalid value for '--clone-epochs'"),
        (["assess", "v", "--price", "cheap"], "Invalid value for '--price'"),
        (["assess", "v", "--bugdet", "5"], "--budget"),
        (["asess"], "assess"),
        (["report"], "Missing argument"),
    ],
)
def test_commands_that_are_not_complete(arguments: list[str], words: str, modelmoat: Callable) -> None:
    done = modelmoat(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert words in done.err
    assert "Traceback" not in done.err
