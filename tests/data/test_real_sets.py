from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelmoat.data import load, overlap

FOLDER = os.environ.get("MODELMOAT_DATA", "")


def needs(name: str) -> None:
    if not FOLDER or not (Path(FOLDER) / name).is_dir():
        pytest.skip(f"no folder {name} under $MODELMOAT_DATA")


@pytest.mark.parametrize(
    ("reference", "count", "shape", "classes"),
    [
        ("mnist,split=test", 10_000, (1, 28, 28), 10),
        ("fashion-mnist,split=test", 10_000, (1, 28, 28), 10),
        ("cifar10,split=test", 10_000, (3, 32, 32), 10),
        ("tiny-imagenet-32,grey,size=28,split=test", 5_000, (1, 28, 28), 200),
        ("ahcd,split=test", 3_360, (1, 32, 32), 28),
        ("notmnist-10k,split=all", 8_000, (1, 28, 28), 10),
        ("omniglot-small,invert,size=28,split=test", 968, (1, 28, 28), 242),
    ],
)
def test_real_sets_have_their_published_shape(
    reference: str, count: int, shape: tuple[int, int, int], classes: int
) -> None:
    needs(reference.split(",")[0])
    images = load(reference)
    assert (len(images), images.shape, images.num_classes) == (count, shape, classes)
    assert images.reference == reference


def test_inverted_omniglot_is_mostly_dark_like_mnist() -> None:
    needs("omniglot-small")
    assert load("omniglot-small,invert,size=28,split=test").images.float().mean() < 40


def test_duplicates_of_a_real_set_stay_on_one_side() -> None:
    needs("notmnist-10k")
    assert not overlap(load("notmnist-10k,split=all"), load("notmnist-10k,split=test")).any()
