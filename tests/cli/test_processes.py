"""Commands in processes of their own: what they import, and what is left when they are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmoat.core.records import read_records
from modelmoat.victims.journal import read_journal

TIMED = {"created", "query_seconds", "train_seconds", "latency_ratio", "latency_ratios", "latency_ms"}
PYTHON = [sys.executable, "-W", "error::UserWarning"]
HEAVY = {"torch", "numpy", "matplotlib", "pyarrow", "sklearn", "PIL"}
RECORDS = 6


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def heed_interrupts() -> None:
    """A shell that runs the tests in its background makes all their children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "code",
    [
        "import modelmoat",
        "import modelmoat.cli",
        "import modelmoat.cli.app as app\ntry: app.run(['--help'])\nexcept SystemExit: pass",
        "import modelmoat.cli.app as app\ntry: app.run(['assess', '--help'])\nexcept SystemExit: pass",
    ],
    ids=["import", "cli", "help", "assess-help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    tell = "import sys; print('LOADED', *sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [*PYTHON, "-c", f"{code}\n{tell}"], capture_output=True, text=True, env=environment(), check=True
    )
    loaded = {name.partition(".")[0] for name in done.stderr.rpartition("LOADED")[2].split()}
    assert "modelmoat" in loaded
    assert not loaded & HEAVY


class Assessment:
    """The same assessment in a process of its own or in this one."""

    def __init__(self, victim: Path, out: Path, assess: Callable[..., Any]) -> None:
        self.out = out
        self._options = ["--seed", "0,1,2", "--budget", "20,40", "--no-bracket", "--out", str(out)]
        self._victim, self._assess = victim, assess

    def start(self) -> subprocess.Popen[str]:
        rest = ["--pool", "digits,pool=0.4,split=pool", "--clone-epochs", "1", "--clone-min-steps", "20"]
        command = [*PYTHON, "-m", "modelmoat", "assess", str(self._victim), *rest, "--precision", "float32"]
        return subprocess.Popen(
            [*command, *self._options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            preexec_fn=heed_interrupts,
        )

    def finish(self) -> None:
        done = self._assess("--clone-min-steps", 20, *self._options)
        assert done.code == 0, done.err

    def lines(self) -> int:
        file = self.out / "records.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def wait_for(self, records: int, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 120
        while self.lines() < records:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)

    def rows(self) -> list[dict[str, Any]]:
        records = sorted(read_records(self.out), key=lambda record: record.cell)
        return [record.model_dump(exclude=TIMED) for record in records]

    def answered(self) -> list[int]:
        """Answers on disk in each journal, none of them to the same input twice."""
        counts = []
        for file in sorted((self.out / "journals").iterdir()):
            _, frames, whole = read_journal(file)
            assert whole == file.stat().st_size
            keys = np.concatenate([frame.keys for frame in frames])
            assert len(set(keys.tolist())) == len(keys)
            counts.append(len(keys))
        return counts


@pytest.fixture
def assessments(tiny_victim: Path, tmp_path: Path, assess: Callable[..., Any]) -> tuple[Assessment, Assessment]:
    return (
        Assessment(tiny_victim, tmp_path / "stopped", assess),
        Assessment(tiny_victim, tmp_path / "whole", assess),
    )


def check_equal(stopped: Assessment, whole: Assessment) -> None:
    stopped.finish()
    whole.finish()
    assert len(stopped.rows()) == RECORDS
    assert stopped.rows() == whole.rows()
    assert stopped.answered() == whole.answered() == [40] * 3


def test_an_interrupted_command_goes_on(assessments: tuple[Assessment, Assessment]) -> None:
    stopped, whole = assessments
    process = stopped.start()
    stopped.wait_for(1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.startswith("Interrupted. ")
    assert err.count("\n") == 1
    assert 1 <= stopped.lines() < RECORDS
    check_equal(stopped, whole)


@pytest.mark.slow
@pytest.mark.parametrize("records", [0, 1, 2, 4])
def test_a_killed_command_goes_on(
    records: int, assessments: tuple[Assessment, Assessment], recwarn: pytest.WarningsRecorder
) -> None:
    stopped, whole = assessments
    process = stopped.start()
    while records == 0 and not (stopped.out / "journals").exists() and process.poll() is None:
        time.sleep(0.002)
    stopped.wait_for(records, process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert stopped.lines() < RECORDS
    check_equal(stopped, whole)
