from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
import time
from pathlib import Path

from modelmoat.studies.workers import _Processes


class Endless:
    def run(self, root, command, progress):
        Path(root, "began").touch()
        time.sleep(600)


if __name__ == "__main__":
    root = Path(__file__).parent
    crew = _Processes(root, 1, [])
    crew.start(0, Endless())
    while not (root / "began").exists():
        time.sleep(0.05)
    (worker,) = multiprocessing.active_children()
    print(worker.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_with_the_process_that_started_it(how: signal.Signals, tmp_path: Path) -> None:
    """In the middle of a unit that says nothing, too: nobody would ever stop it."""
    script = tmp_path / "endless.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        worker = int(started.stdout.readline())
        assert runs(worker)
        started.send_signal(how)
    until = time.monotonic() + 30
    while runs(worker) and time.monotonic() < until:
        time.sleep(0.05)
    ended = not runs(worker)
    if not ended:
        os.kill(worker, signal.SIGKILL)
    assert ended


def runs(pid: int) -> bool:
    """Whether a process is there and not only waiting to be buried."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
