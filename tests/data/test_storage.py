from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modelmoat.core.errors import DataError, OptionError, RunError
from modelmoat.data import decoding, load, load_splits
from modelmoat.data.storage import memory_limit, parse_bytes


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.u8"))


@pytest.fixture
def path(tmp_path: Path, write_parquet: Callable[..., Path], random_pixels: Callable) -> Path:
    return write_parquet(tmp_path / "set" / "a.parquet", list(random_pixels(300, 6, 6, 3)), list(range(300)))


@pytest.mark.parametrize("options", ["", ",grey,size=5,invert", ",pool=0.3"])
def test_mapped_sets_equal_sets_in_memory(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    memory = load_splits(f"parquet:{path}{options}", seed=2)
    assert not cached(tmp_path)
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")
    mapped = load_splits(f"parquet:{path}{options}", seed=2)
    assert len(cached(tmp_path)) == 1
    for name in ("train", "validation", "test"):
        a, b = getattr(memory, name), getattr(mapped, name)
        assert not a.mapped
        assert b.mapped
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.digest == b.digest


def test_later_runs_use_the_file_again(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")
    first = load(f"parquet:{path}")
    moved = Path(shutil.copytree(path.parent, tmp_path / "moved")) / path.name

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding._Fill, "__call__", refuse)
    assert load(f"parquet:{path}").digest == first.digest
    assert load(f"parquet:{moved}").digest == first.digest
    with pytest.raises(AssertionError, match="decoded again"):
        load(f"parquet:{path},grey")


def test_each_look_has_its_own_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")
    plain, inverted = load(f"parquet:{path}"), load(f"parquet:{path},invert")
    assert torch.equal(inverted.images, 255 - plain.images)


def test_changed_content_is_decoded_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, write_parquet: Callable[..., Path], random_pixels: Callable
) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")
    first = load(f"parquet:{path},test=0")
    write_parquet(path, list(random_pixels(300, 6, 6, 3, seed=5)), list(range(300)))
    second = load(f"parquet:{path},test=0")
    assert np.array_equal(second.images.permute(0, 2, 3, 1).numpy(), random_pixels(300, 6, 6, 3, seed=5))
    assert first.digest != second.digest


def test_writing_to_a_mapped_tensor_never_reaches_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")
    first = load(f"parquet:{path},test=0")
    digest = first.digest
    first.images.zero_()
    assert load(f"parquet:{path},test=0").digest == digest


def test_a_failed_decode_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_parquet: Callable[..., Path], random_pixels: Callable
) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "10B")
    path = write_parquet(tmp_path / "a.parquet", [random_pixels(6, 6), b"junk"], [0, 0])
    with pytest.raises(DataError, match="row 1 cannot be decoded"):
        load(f"parquet:{path}")
    assert not list((tmp_path / "cache" / "images").iterdir())


def test_a_color_picture_after_grey_ones_is_mapped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_parquet: Callable[..., Path], random_pixels: Callable
) -> None:
    path = write_parquet(tmp_path / "a.parquet", [random_pixels(6, 6), random_pixels(6, 6, 3)], [0, 0])
    memory = load(f"parquet:{path},test=0")
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "10B")
    for _ in range(2):
        assert load(f"parquet:{path},test=0").digest == memory.digest
    assert [file.name.split("-")[1] for file in cached(tmp_path)] == ["2x3x6x6.u8"]


@pytest.mark.parametrize("reference", ["digits", "photo-patches,n=50,size=8"])
def test_embedded_sets_can_be_mapped(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = load(reference)
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")
    mapped = load(reference)
    assert mapped.mapped
    assert mapped.digest == memory.digest


def test_folders_and_archives_are_keyed_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, png: Callable[..., bytes], random_pixels: Callable
) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "10B")
    pixels = random_pixels(4, 6, 6)
    np.savez(tmp_path / "a.npz", x=pixels, y=[0, 0, 1, 1])
    for row, picture in enumerate(pixels):
        file = tmp_path / "set" / "ab"[row // 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(picture))
    references = [f"npz:{tmp_path / 'a.npz'},test=0", f"folder:{tmp_path / 'set'},test=0"]
    for _ in range(2):
        assert len({load(reference).digest for reference in references}) == 1
    assert len(cached(tmp_path)) == 2
    (tmp_path / "set" / "a" / "0.png").write_bytes(png(255 - pixels[0]))
    assert load(references[0]).digest != load(references[1]).digest


def test_an_unwritable_cache_is_one_clear_error(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", "1KB")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunError, match=r"cannot write .*No space left.*fix"):
        load(f"parquet:{path}")
    assert not cached(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("3mb", 3 * 10**6), ("1TB", 10**12)],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "-1GB", "2 XB", "GB", "1e9"])
def test_a_limit_that_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMOAT_MEMORY_LIMIT", text)
    with pytest.raises(OptionError, match=r"MODELMOAT_MEMORY_LIMIT=.*expected.*2GB"):
        load("digits")


def test_the_default_limit_is_a_part_of_the_memory() -> None:
    assert 2**20 < memory_limit() < 2**50
