from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelmoat.cli.app import run

POOL = "digits,pool=0.4,split=pool"


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int | str | None
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def _quick(quick_assessments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rounds and timings, data decoded once, no data folder, and a terminal of known width."""
    monkeypatch.delenv("MODELMOAT_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def modelmoat(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(stop.value.code, printed.out, printed.err)

    return call


@pytest.fixture
def assess(modelmoat: Command, tiny_victim: Path, tmp_path: Path) -> Command:
    """Run ``assess`` on the tiny victim with quick clones; later options win over these."""

    def call(*options: object, victim: object = tiny_victim) -> Done:
        given = {str(option) for option in options}
        quick = {
            "--pool": POOL,
            "--budget": "10,25",
            "--out": tmp_path / "run",
            "--clone-epochs": 1,
            "--clone-min-steps": 5,
            "--precision": "float32",
        }
        rest = [part for name, value in quick.items() if name not in given for part in (name, value)]
        return modelmoat("assess", victim, *rest, *options)

    return call


@pytest.fixture
def refused(assess: Command) -> Callable[..., str]:
    """Check that ``assess`` ends with 2 and one line on standard error that holds some words; returns the line."""

    def check(*options: object, words: tuple[str, ...], victim: object = None) -> str:
        done = assess(*options) if victim is None else assess(*options, victim=victim)
        assert done.code == 2
        assert done.out == ""
        assert done.err.startswith("Error: ")
        assert done.err.count("\n") == 1
        for word in (*words,):
            assert word in done.err, (word, done.err)
        return done.err

    return check
