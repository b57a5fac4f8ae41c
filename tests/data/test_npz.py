from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelmoat.core.errors import DataError
from modelmoat.data import load


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., str]:
    def save(**arrays: object) -> str:
        np.savez(tmp_path / "set.npz", **arrays)
        return f"npz:{tmp_path / 'set.npz'},test=0"

    return save


@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("x_train", "y_train")])
def test_every_pair_of_names_is_read(archive: Callable, random_pixels: Callable, keys: tuple[str, str]) -> None:
    pixels = random_pixels(5, 4, 6)
    images = load(archive(**{keys[0]: pixels, keys[1]: np.array([0, 1, 2, 1, 0], dtype=np.int32)}))
    assert np.array_equal(images.images[:, 0].numpy(), pixels)
    assert images.labels.tolist() == [0, 1, 2, 1, 0]
    assert images.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((5, 4, 6, 1), 1), ((5, 1, 4, 6), 1), ((5, 4, 6, 3), 3), ((5, 3, 4, 6), 3), ((5, 4, 6, 4), 3)],
)
def test_channels_are_found_first_or_last(
    archive: Callable, random_pixels: Callable, shape: tuple[int, ...], channels: int
) -> None:
    pixels = random_pixels(*shape)
    images = load(archive(x=pixels, y=np.zeros(5, dtype=int))).images.numpy()
    expected = pixels if shape[1] in (1, 3) else pixels.transpose(0, 3, 1, 2)[:, :channels]
    assert np.array_equal(images, expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_become_the_nearest_byte(archive: Callable, kind: type) -> None:
    values = np.array([0, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4, 254.6 / 255, 1, 0.25], dtype=kind).reshape(1, 2, 3)
    assert load(archive(x=values, y=[0])).images.flatten().tolist() == [0, 0, 1, 255, 255, 64]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, r"holds a; expected x_train, y_train or x, y or images, labels"),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": [0, 1], "x_test": np.zeros((2, 3, 3))}, "both or none of x_test, y"),
        ({"x": np.zeros((2, 9), np.uint8), "y": [0, 1]}, r"x has shape \[2, 9\]; expected \[N, H, W\]"),
        ({"x": np.zeros((2, 5, 9, 9), np.uint8), "y": [0, 1]}, r"shape \[2, 5, 9, 9\].*1, 3 or 4 channels"),
        ({"x": np.zeros((2, 3, 3), np.int64), "y": [0, 1]}, r"is int64; expected uint8.*astype\('uint8'\)"),
        ({"x": np.full((2, 3, 3), 1.5), "y": [0, 1]}, r"x\[0\] holds 1.5; expected floats from 0 to 1"),
        ({"x": np.array([[[0.5]], [[np.nan]]]), "y": [0, 1]}, r"x\[1\] holds nan; expected floats from 0 to 1"),
        ({"x": np.array([[[0.5]], [[-0.1]]]), "y": [0, 1]}, r"x\[1\] holds -0.1"),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": [0, 1, 1]}, "2 images in x, 3 labels in y"),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": [0, -2]}, r"y\[1\]: label -2; expected 0 to"),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": [0.0, 1.0]}, "labels are float64; expected whole numbers"),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": [[0], [1]]}, r"labels have shape \[2, 1\]; expected \[N\]"),
        ({"x": np.zeros((0, 3, 3), np.uint8), "y": np.zeros(0, int)}, r"shape \[0, 3, 3\]; expected at least one"),
        ({"x": np.array([{}, []], dtype=object), "y": [0, 1]}, r"pickled objects, which could run any code.*fix"),
    ],
)
def test_unusable_arrays_are_refused(archive: Callable, arrays: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(archive(**arrays))


def test_files_that_are_no_archive_are_refused_unopened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.npz is not a file.*fix"):
        load(f"npz:{tmp_path / 'none.npz'}")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match=r"cannot read .*pickle.npz.*numpy.savez"):
        load(f"npz:{tmp_path / 'pickle.npz'}")
    np.savez(tmp_path / "cut.npz", x=np.zeros((9, 9, 9), np.uint8), y=np.zeros(9, int))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:300])
    with pytest.raises(DataError, match=r"cannot read .*cut.npz"):
        load(f"npz:{tmp_path / 'cut.npz'}")
