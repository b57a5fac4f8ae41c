from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from modelmoat.core.errors import DataError
from modelmoat.data import ImageSet, overlap


def make(count: int = 6, *, seed: int = 0, mapped: bool = False) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageSet(pixels, torch.arange(count) % 2, ("a", "b"), "made", mapped=mapped)


def test_digest_is_the_hash_of_shape_pixels_and_labels() -> None:
    images = make()
    expected = hashlib.sha256(b"uint8 6 (1, 3, 3)" + images.images.numpy().tobytes() + images.labels.numpy().tobytes())
    assert images.digest == expected.hexdigest()[:16]


def test_digest_changes_with_pixels_labels_order_and_shape() -> None:
    images = make()
    pixel = images.images.clone()
    pixel[0, 0, 0, 0] ^= 1
    others = [
        ImageSet(pixel, images.labels, images.class_names, ""),
        ImageSet(images.images, 1 - images.labels, images.class_names, ""),
        images.take(torch.tensor([1, 0, 2, 3, 4, 5])),
        ImageSet(images.images.view(6, 1, 1, 9), images.labels, images.class_names, ""),
    ]
    assert len({images.digest, *(other.digest for other in others)}) == 5


def test_digest_covers_rows_beyond_the_first_chunk() -> None:
    images = make(5000)
    last = images.images.clone()
    last[-1] ^= 1
    assert images.digest != ImageSet(last, images.labels, images.class_names, "").digest


def test_taking_from_a_mapped_set_copies_no_pixels_and_gives_the_same() -> None:
    indices, again = torch.tensor([4, 0, 3]), torch.tensor([2, 0])
    memory, mapped = make(), make(mapped=True)
    taken = mapped.take(indices)
    assert taken._whole.data_ptr() == mapped.images.data_ptr()
    for a, b in ((memory.take(indices), taken), (memory.take(indices).take(again), taken.take(again))):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.batch(torch.tensor([1])), b.batch(torch.tensor([1])))
        assert a.digest == b.digest
        assert (a.row_hashes() == b.row_hashes()).all()
        assert len(a) == len(b)


def test_taking_from_memory_is_independent_of_the_original() -> None:
    images = make()
    taken = images.take(torch.tensor([0, 1]))
    assert taken._whole.data_ptr() != images.images.data_ptr()
    assert taken.reference == "made"
    assert images.take(torch.tensor([0]), reference="other").reference == "other"


def test_row_hashes_have_sixteen_bytes_and_tell_rows_apart() -> None:
    hashes = make(50).row_hashes()
    assert hashes.dtype == np.dtype("S16")
    assert len(np.unique(hashes)) == 50


def test_overlap_marks_rows_whose_pixels_appear_in_the_other() -> None:
    a = make(10)
    b = ImageSet(torch.cat([make(4, seed=1).images, a.images[[7, 2]]]), torch.zeros(6, dtype=torch.int64), ("x",), "b")
    assert overlap(a, b).nonzero().flatten().tolist() == [2, 7]
    assert overlap(a, make(5, seed=2)).sum() == 0


def test_overlap_of_different_shapes_is_refused() -> None:
    a = make()
    b = ImageSet(a.images.view(6, 1, 1, 9), a.labels, a.class_names, "wide")
    with pytest.raises(DataError, match=r"\(1, 3, 3\).*\(1, 1, 9\).*size="):
        overlap(a, b)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64), r"float32 \[2, 1, 3, 3\]; expected uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"uint8 \[2, 3, 3\]"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2), "expected int64"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "3 labels for 2 images"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 2]), "0 to 2; expected 0 to 1"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([-1, 0]), "from -1"),
    ],
)
def test_tensors_that_are_no_image_set_are_refused(images: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ImageSet(images, labels, ("a", "b"), "bad")
