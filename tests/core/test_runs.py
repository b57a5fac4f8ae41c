from __future__ import annotations

import getpass
import json
import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelmoat.core.errors import RunError
from modelmoat.core.runs import RUN_FILE, RunInfo, machine, now, package_versions, read_run, write_run


def info() -> RunInfo:
    return RunInfo(
        commands=[["modelmoat", "assess", "x y"]],
        spec={"budgets": [10, 20], "defense": None},
        spec_digest="0123",
        created=now(),
        updated=now(),
        package_version="0",
        versions=package_versions(),
        machine=machine({"threads": 1}),
        hashes={"test": "ab"},
        price_per_1000=1.5,
        target_fidelity=0.9,
    )


def test_a_run_page_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    written = info()
    write_run(tmp_path, written)
    assert read_run(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]


@pytest.mark.parametrize("changes", [{"schema_version": 2}, {"surprise": 1}, {"commands": "text"}])
def test_a_page_of_another_version_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps(info().model_dump() | changes))
    with pytest.raises(RunError, match=r"run\.json is not a run page of this version: .*fix: use another --out folder"):
        read_run(tmp_path)


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, info())
    path = tmp_path / RUN_FILE
    path.write_text(path.read_text()[:40])
    with pytest.raises(RunError, match="not a run page"):
        read_run(tmp_path)


def test_a_page_names_versions_but_neither_host_nor_user() -> None:
    versions = package_versions()
    assert versions["python"] == platform.python_version()
    assert {"torch", "numpy", "pyarrow"} <= set(versions)
    found = machine({"threads": 1})
    assert found["threads"] == 1
    assert int(found["cores"]) >= 1
    assert not {socket.gethostname(), getpass.getuser()} & set(map(str, found.values()))


def test_times_are_utc_to_the_second() -> None:
    moment = datetime.fromisoformat(now())
    assert moment.tzinfo == UTC
    assert moment.microsecond == 0
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 5


def test_a_machine_is_told_by_its_kind_where_linux_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, memory = tmp_path / "cpuinfo", tmp_path / "meminfo"
    monkeypatch.setattr("modelmoat.core.runs._CPU_FILE", cpu)
    monkeypatch.setattr("modelmoat.core.runs._MEMORY_FILE", memory)
    assert set(machine()) == {"system", "processor", "cores"}
    cpu.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some  CPU @ 2.6GHz\n")
    memory.write_text("MemTotal:       16265412 kB\nMemFree:  1 kB\n")
    assert (machine()["cpu"], machine()["memory_gib"]) == ("Some CPU @ 2.6GHz", 16)
    cpu.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    memory.write_bytes(b"\xff")
    assert set(machine()) == {"system", "processor", "cores"}
