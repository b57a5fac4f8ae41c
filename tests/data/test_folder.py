from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelmoat.core.errors import DataError
from modelmoat.data import load, load_splits


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pets(tmp_path: Path, random_pixels: Callable) -> Path:
    for row, name in enumerate(["cat/1.png", "cat/2.PNG", "dog/a.bmp", "dog/b.webp", "emu/x.jpg"]):
        save(tmp_path / "pets" / name, random_pixels(6, 6, 3, seed=row))
    (tmp_path / "pets" / "cat" / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "pets" / "notes.txt").write_text("beside the classes")
    return tmp_path / "pets"


def test_classes_are_sorted_folders_and_files_keep_their_order(pets: Path, random_pixels: Callable) -> None:
    images = load(f"folder:{pets},test=0")
    assert images.class_names == ("cat", "dog", "emu")
    assert images.labels.tolist() == [0, 0, 1, 1, 2]
    for row in range(3):
        assert np.array_equal(images.images[row].permute(1, 2, 0).numpy(), random_pixels(6, 6, 3, seed=row))


def test_train_and_test_folders_share_the_classes_of_train(tmp_path: Path, random_pixels: Callable) -> None:
    for row in range(20):
        save(tmp_path / "train" / "abc"[row % 3] / f"{row}.png", random_pixels(4, 4, seed=row))
    save(tmp_path / "test" / "c" / "0.png", random_pixels(4, 4, seed=99))
    splits = load_splits(f"folder:{tmp_path}")
    assert splits.test.labels.tolist() == [2]
    assert splits.test.class_names == splits.train.class_names == ("a", "b", "c")
    save(tmp_path / "test" / "d" / "0.png", random_pixels(4, 4))
    with pytest.raises(DataError, match=r"has the class 'd', which .*train lacks.*fix"):
        load(f"folder:{tmp_path}")


def test_transparency_and_palettes_become_rgb(tmp_path: Path, random_pixels: Callable) -> None:
    color = random_pixels(4, 4, 4)
    save(tmp_path / "x" / "1.png", color)
    palette = Image.fromarray(random_pixels(4, 4) % 4).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    palette.save(tmp_path / "x" / "2.png", transparency=b"\x00\x80\xff\xff")
    images = load(f"folder:{tmp_path},test=0").images
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), color[..., :3])
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), np.asarray(palette.convert("RGB")))


def test_one_bit_pictures_become_black_and_white(tmp_path: Path) -> None:
    save(tmp_path / "x" / "1.png", np.eye(5, dtype=bool))
    images = load(f"folder:{tmp_path},test=0").images
    assert np.array_equal(images[0, 0].numpy(), np.eye(5, dtype=np.uint8) * 255)


def test_deep_pictures_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x" / "1.png", np.full((4, 4), 3000, dtype=np.uint16))
    with pytest.raises(DataError, match=r"1.png has pixels of mode I;16; expected at most 8 bits"):
        load(f"folder:{tmp_path}")


def test_a_corrupt_file_is_named(pets: Path) -> None:
    (pets / "dog" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"c.png cannot be decoded.*fix"):
        load(f"folder:{pets}")


def test_folders_that_are_no_image_set_are_refused(tmp_path: Path, pets: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder.*fix"):
        load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match=r"hollow is empty; expected one folder of images for each class"):
        load(f"folder:{tmp_path / 'hollow'}")
    (pets / "fox").mkdir()
    with pytest.raises(DataError, match=r"fox holds no images.*fix"):
        load(f"folder:{pets}")
    (pets / "fox" / "list.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"list.csv is no image file; expected files that end in .bmp, .jpeg"):
        load(f"folder:{pets}")
