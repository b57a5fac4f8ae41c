"""Copies of folders on a store in memory, which stands in for one on the net."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from modelmoat.core.errors import OptionError, RunError
from modelmoat.studies import load_study, mirrored
from modelmoat.studies.engine import Outcome
from modelmoat.studies.sites import ObjectStore
from modelmoat.studies.storage import Storage
from modelmoat.studies.units import Unit, plan_units

RUN = Path("runs", "one")


@pytest.fixture
def url() -> Iterator[str]:
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    if MemoryFileSystem().exists(name):
        MemoryFileSystem().rm(name, recursive=True)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files in the order in which they went up or down."""
    names: list[str] = []
    put, get = MemoryFileSystem.put_file, MemoryFileSystem.get_file

    def count_put(self: Any, local: str, remote: str, **options: Any) -> None:
        names.append(f"up {Path(remote).name}")
        put(self, local, remote, **options)

    def count_get(self: Any, remote: str, local: str, **options: Any) -> None:
        names.append(f"down {Path(remote).name}")
        get(self, remote, local, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", count_put)
    monkeypatch.setattr(MemoryFileSystem, "get_file", count_get)
    return names


def fill(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / RUN / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root / RUN).as_posix(): path.read_text()
        for path in (root / RUN).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_folder_reaches_another_machine(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    fill(here, records_jsonl="1\n", journals__a="x", _lock="held")
    Storage(url).push(here, RUN)
    Storage(url).pull(there, RUN)
    assert texts(there) == {"records.jsonl": "1\n", "journals/a": "x"}
    fill(there, records_jsonl="1\n2\n")
    (there / RUN / "journals" / "a").unlink()
    Storage(url).push(there, RUN)
    Storage(url).pull(here, RUN)
    assert texts(here) == {"records.jsonl": "1\n2\n"}


def test_only_what_changed_travels_and_done_goes_last(url: str, tmp_path: Path, moved: list[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    fill(here, a="1", done_json="{}", z="3")
    Storage(url).push(here, RUN)
    Storage(url).push(here, RUN)
    assert moved == ["up a", "up z", "up done.json"]
    moved.clear()
    Storage(url).pull(there, RUN)
    Storage(url).pull(there, RUN)
    assert moved == ["down a", "down z", "down done.json"]
    moved.clear()
    fill(here, z="4")
    Storage(url).push(here, RUN)
    Storage(url).pull(there, RUN)
    assert moved == ["up z", "down z"]
    assert texts(there)["z"] == "4"


def test_a_copy_is_made_the_same_as_what_is_there(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    fill(here, a="1", b="2")
    Storage(url).push(here, RUN)
    Storage(url).pull(there, RUN)
    fill(there, a="changed", c="never pushed")
    (there / RUN / "b").unlink()
    Storage(url).pull(there, RUN)
    assert texts(there) == {"a": "1", "b": "2"}


def test_what_came_from_another_url_is_pushed(url: str, tmp_path: Path) -> None:
    fill(tmp_path, a="1")
    Storage(url + "/first").push(tmp_path, RUN)
    Storage(url + "/second").push(tmp_path, RUN)
    Storage(url + "/second").pull(tmp_path / "other", RUN)
    assert texts(tmp_path / "other") == {"a": "1"}


def test_the_top_goes_without_folders(url: str, tmp_path: Path) -> None:
    fill(tmp_path, a="1")
    (tmp_path / "study.json").write_text("{}")
    Storage(url).push(tmp_path, RUN)
    Storage(url).push(tmp_path, Path(), deep=False)
    Storage(url).pull(tmp_path / "other", Path(), deep=False)
    names = {path.name for path in (tmp_path / "other").rglob("*") if not path.name.startswith(".")}
    assert names == {"study.json"}


def test_an_error_of_the_store_is_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("Access\nDenied")

    fill(tmp_path, a="1")
    Storage(url).push(tmp_path, RUN)
    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    monkeypatch.setattr(MemoryFileSystem, "get_file", refuse)
    fill(tmp_path, a="2")
    for verb, call, root in (("write", Storage(url).push, tmp_path), ("read", Storage(url).pull, tmp_path / "other")):
        with pytest.raises(RunError, match=f"cannot {verb} {url}: PermissionError: Access Denied; fix: see that"):
            call(root, RUN)
    with pytest.raises(OptionError, match="--out nothing://x: Protocol not known: nothing; fix: a folder"):
        Storage("nothing://x")


@pytest.fixture
def units(write: Callable[..., Path]) -> list[Unit]:
    trainings, assessments = plan_units(load_study(write())[0])
    return [*trainings, *assessments]


def test_records_that_did_not_arrive_are_a_failure(url: str, units: list[Unit]) -> None:
    site = ObjectStore(url)
    assert site.collect(units[0], Outcome()) == Outcome()
    lost = site.collect(units[1], Outcome(cells=("a", "b")))
    assert lost.error == f"2 of its records did not reach {url}; fix: run the same command again"
    assert site.collect(units[1], Outcome(cells=("a",), error="boom")).error == "boom"


def test_a_study_comes_from_the_store_and_goes_back(
    url: str, write: Callable[..., Path], units: list[Unit], tmp_path: Path
) -> None:
    study, _ = load_study(write())
    with mirrored(url, study) as root:
        (root / "study.json").write_text("{}")
        (root / units[1].folder).mkdir(parents=True, exist_ok=True)
        (root / units[1].folder / "records.jsonl").write_text("")
        ObjectStore(url).publish(units[1].folder)
        with pytest.raises(RunError, match="in use by another modelmoat process"), mirrored(url, study):
            pass
    shutil.rmtree(root)
    with mirrored(url, study) as again:
        assert again == root
        assert (root / "study.json").read_text() == "{}"
        assert (root / units[1].folder / "records.jsonl").is_file()
