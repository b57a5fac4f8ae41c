from __future__ import annotations

import pytest

from modelmoat.core.shapes import by, reshape_options


@pytest.mark.parametrize(("shape", "text"), [((1, 8, 8), "1x8x8"), ([32, 24], "32x24"), ((5,), "5"), ((), "")])
def test_a_shape_is_written_with_x(shape: tuple[int, ...], text: str) -> None:
    assert by(shape) == text


@pytest.mark.parametrize(
    ("given", "wanted", "options"),
    [
        ((1, 8, 8), (1, 8, 8), ""),
        ((3, 8, 8), (1, 8, 8), "grey"),
        ((1, 8, 8), (3, 8, 8), "rgb"),
        ((1, 8, 8), (1, 28, 28), "size=28"),
        ((1, 8, 6), (1, 8, 8), "size=8"),
        ((3, 32, 32), (1, 8, 8), "grey,size=8"),
        ((1, 8, 8), (1, 8, 6), "images of 8x6"),
        ((3, 32, 32), (1, 8, 6), "grey,images of 8x6"),
        ((3, 8, 6), (1, 8, 6), "grey"),
        ([3, 8, 8], (3, 8, 8), ""),
    ],
)
def test_options_that_make_images_fit(given: tuple[int, ...], wanted: tuple[int, ...], options: str) -> None:
    assert reshape_options(given, wanted) == options
