from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.core.seeds import generator
from modelmoat.training.augment import augment_batch, resolve_augment


def batch(count: int = 60, side: int = 16) -> Tensor:
    return torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def places(image: Tensor, result: Tensor) -> list[tuple[int, int, bool]]:
    """Every offset and mirroring at which a crop of the padded image is the result."""
    side = image.shape[-1]
    pad = max(1, side // 8)
    padded = F.pad(image, (pad, pad, pad, pad))
    found = []
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[:, top : top + side, left : left + side]
            found += [(top, left, mirrored) for mirrored in (False, True) if torch.equal(_flip(crop, mirrored), result)]
    return found


def _flip(crop: Tensor, mirrored: bool) -> Tensor:
    return crop.flip(2) if mirrored else crop


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_every_result_is_a_crop_of_its_own_padded_image(kind: str, side: int) -> None:
    images = batch(side=side)
    results = augment_batch(images, kind, generator(0, "test"))  # type: ignore[arg-type]
    assert results.shape == images.shape
    assert results.dtype == images.dtype
    found = [places(image, result) for image, result in zip(images, results, strict=True)]
    assert all(len(place) == 1 for place in found)
    width = 2 * max(1, side // 8) + 1
    assert {place[0][0] for place in found} == {place[0][1] for place in found} == set(range(width))
    mirrored = sum(place[0][2] for place in found)
    assert mirrored == 0 if kind == "crop" else 15 < mirrored < 45
    assert any(place[0][0] != place[0][1] for place in found)


def test_the_draw_depends_on_the_generator_alone() -> None:
    images = batch()
    first = augment_batch(images, "crop_flip", generator(0, "a"))
    torch.manual_seed(4)
    assert torch.equal(augment_batch(images, "crop_flip", generator(0, "a")), first)
    assert not torch.equal(augment_batch(images, "crop_flip", generator(1, "a")), first)
    floats = augment_batch(images.float(), "crop_flip", generator(0, "a"))
    assert torch.equal(floats, first.float())


def test_one_generator_goes_on_with_other_draws() -> None:
    images, source = batch(), generator(0, "a")
    first = augment_batch(images, "crop", source)
    assert not torch.equal(augment_batch(images, "crop", source), first)


def test_none_leaves_images_and_generator_alone() -> None:
    images, source = batch(), generator(0, "a")
    before = source.get_state()
    assert augment_batch(images, "none", source) is images
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize(
    ("choice", "channels", "size", "expected"),
    [
        ("auto", 3, 32, "crop_flip"),
        ("auto", 3, 24, "crop_flip"),
        ("auto", 3, 16, "none"),
        ("auto", 1, 32, "none"),
        ("crop", 1, 8, "crop"),
        ("none", 3, 32, "none"),
    ],
)
def test_auto_augments_color_photos_only(choice: str, channels: int, size: int, expected: str) -> None:
    assert resolve_augment(choice, channels, size) == expected  # type: ignore[arg-type]
