from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelmoat.core.errors import DataError, UnknownReference
from modelmoat.data import load, load_splits

huggingface_hub = pytest.importorskip("huggingface_hub")
Serve = Callable[..., list[str]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """Stand in for the hub: serves a folder for each revision, and notes what was downloaded."""
    downloads: list[str] = []

    def start(**revisions: list[str]) -> list[str]:
        class Hub:
            def list_repo_files(self, repo_id: str, *, repo_type: str, revision: str | None) -> list[str]:
                assert (repo_id, repo_type) == ("owner/name", "dataset")
                return revisions["converted" if revision == "refs/convert/parquet" else "main"]

            def hf_hub_download(self, repo_id: str, filename: str, *, repo_type: str, revision: str | None) -> str:
                assert (repo_id, repo_type) == ("owner/name", "dataset")
                downloads.append(f"{revision}: {filename}")
                return str(tmp_path / Path(filename).name)

        monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
        return downloads

    return start


@pytest.fixture
def stored(tmp_path: Path, write_parquet: Callable[..., Path], random_pixels: Callable) -> Path:
    for name, count in (("train-0.parquet", 12), ("test-0.parquet", 5), ("0000.parquet", 10)):
        write_parquet(
            tmp_path / name, list(random_pixels(count, 4, 4, seed=count)), [0, 1, 2] * (count // 3) + [0] * (count % 3)
        )
    return tmp_path


@pytest.mark.usefixtures("stored")
def test_main_revision_gives_train_and_test(serve: Serve) -> None:
    downloads = serve(main=["README.md", "data/train-0.parquet", "data/test-0.parquet", "data/unlabeled-0.parquet"])
    splits = load_splits("hub:owner/name")
    assert len(splits.train) + len(splits.validation) == 12
    assert len(splits.test) == 5
    assert downloads == ["None: data/train-0.parquet", "None: data/test-0.parquet"]


@pytest.mark.usefixtures("stored")
def test_converted_files_serve_where_main_has_none(serve: Serve) -> None:
    downloads = serve(main=["images.zip"], converted=["default/train/0000.parquet"])
    assert len(load("hub:owner/name,test=0")) == 10
    assert downloads == ["refs/convert/parquet: default/train/0000.parquet"]


@pytest.mark.parametrize(
    ("revisions", "words"),
    [
        ({"main": ["a/train-0.parquet", "b/train-0.parquet"]}, "several configurations: a, b; expected one"),
        ({"main": ["a.zip"], "converted": []}, "no .parquet files"),
        ({"main": ["a.zip"]}, "cannot get hub:owner/name: 'converted'"),
    ],
)
def test_data_sets_that_cannot_be_used_are_refused(serve: Serve, revisions: dict[str, list[str]], words: str) -> None:
    serve(**revisions)
    with pytest.raises(DataError, match=words):
        load("hub:owner/name")


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline:
        def list_repo_files(self, *args: object, **options: object) -> list[str]:
            raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(huggingface_hub, "HfApi", Offline)
    with pytest.raises(DataError, match=r"cannot get hub:owner/name: no route to host; .*parquet:DIR$"):
        load("hub:owner/name")


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"pip install 'modelmoat\[hub\]'"):
        load("hub:owner/name")


@pytest.mark.parametrize("location", ["name", "owner/name/more", "../name x"])
def test_locations_that_name_no_data_set_are_refused(location: str) -> None:
    with pytest.raises(UnknownReference, match=r"write hub:OWNER/NAME"):
        load(f"hub:{location}")


@pytest.mark.usefixtures("no_data_folder")
def test_well_known_names_go_to_the_hub_with_their_columns_and_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_parquet: Callable[..., Path], random_pixels: Callable
) -> None:
    asked: list[str] = []
    write_parquet(tmp_path / "train-0.parquet", list(random_pixels(10, 64, 64)), [0] * 10, columns=("img", "label"))
    write_parquet(tmp_path / "train-1.parquet", list(random_pixels(10, 64, 64)), [0] * 10)

    class Hub:
        def list_repo_files(self, repo_id: str, **options: object) -> list[str]:
            asked.append(repo_id)
            return ["train-0.parquet"] if repo_id == "uoft-cs/cifar10" else ["train-1.parquet"]

        def hf_hub_download(self, repo_id: str, filename: str, **options: object) -> str:
            return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert load("cifar10").shape == (1, 64, 64)
    tiny = load("tiny-imagenet-32")
    assert tiny.shape == (1, 32, 32)
    assert tiny.reference == "tiny-imagenet-32,split=all"
    assert load("tiny-imagenet-32,size=16").shape == (1, 16, 16)
    assert asked[:2] == ["uoft-cs/cifar10", "zh-plus/tiny-imagenet"]
