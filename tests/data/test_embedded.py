from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from modelmoat.core.errors import OptionError
from modelmoat.data import load

GOLDEN_DIGITS = "7f5f87a8a0ae8465"


def test_digits_are_those_of_scikit_learn_scaled_to_bytes() -> None:
    images = load("digits,test=0")
    bunch = load_digits()
    assert images.digest == GOLDEN_DIGITS
    assert images.class_names == tuple("0123456789")
    assert images.labels.tolist() == bunch.target.tolist()
    assert np.abs(images.images[:, 0].numpy() / 255 * 16 - bunch.images).max() <= 0.5 / 255 * 16 + 1e-9
    assert images.images.max() == 255


def test_size_is_pillows_antialiased_bilinear_resize() -> None:
    plain, large = load("digits,test=0"), load("digits,test=0,size=28")
    assert large.shape == (1, 28, 28)
    for row in (0, 900, 1796):
        expected = Image.fromarray(plain.images[row, 0].numpy()).resize((28, 28), Image.Resampling.BILINEAR)
        assert np.array_equal(large.images[row, 0].numpy(), np.asarray(expected))


def test_invert_and_rgb_act_on_every_pixel() -> None:
    plain, changed = load("digits"), load("digits,invert,rgb")
    assert changed.shape == (3, 8, 8)
    assert torch.equal(changed.images, (255 - plain.images).expand(-1, 3, -1, -1))


def test_photo_patches_are_distinct_balanced_and_the_same_for_every_seed() -> None:
    a, b = load("photo-patches,n=600,test=0", seed=0), load("photo-patches,n=600,test=0", seed=1)
    assert a.digest == b.digest
    assert a.shape == (3, 32, 32)
    assert a.labels.bincount().tolist() == [300, 300]
    assert a.class_names == ("china", "flower")
    assert len(np.unique(a.row_hashes())) == 600


def test_photo_patches_take_size_and_grey() -> None:
    patches = load("photo-patches,n=300,size=16,grey,test=0")
    assert patches.shape == (1, 16, 16)
    assert len(np.unique(patches.row_hashes())) == 300
    assert patches.images.float().std() > 20


def test_photo_patches_default_to_five_thousand() -> None:
    assert len(load("photo-patches,size=8,test=0")) == 5000


def test_photo_patches_larger_than_a_photo_are_refused() -> None:
    with pytest.raises(OptionError, match=r"size=428.*427.*fix"):
        load("photo-patches,size=428")


def test_more_patches_than_can_differ_are_refused() -> None:
    with pytest.raises(OptionError, match=r"n=2000: only \d+ patches of size=1 differ.*fix"):
        load("photo-patches,size=1,grey,n=2000")
