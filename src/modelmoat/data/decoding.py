"""From pictures to pixels: every picture is decoded once, in batches, straight into one tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modelmoat.core.errors import DataError
from modelmoat.core.files import digest_of
from modelmoat.data import storage
from modelmoat.data.rows import Picture, Rows

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_GREY_MODES = frozenset({"1", "L", "LA"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_CHANNELS = {"L": 1, "RGB": 3}
_ROWS_PER_TASK = 16
# Threads wait for each other on small pictures, where most of the work holds the interpreter lock.
_PIXELS_WORTH_A_THREAD = 96 * 96

Color = Literal["keep", "grey", "rgb"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pixels are to look: ``size`` is the side in pixels after a square, antialiased, bilinear resize."""

    size: int | None = None
    color: Color = "keep"
    invert: bool = False


class _ColorFound(Exception):  # noqa: N818 - a turn in the control flow, not an error
    """A color picture turned up in a set that began with grey ones."""


def decode(rows: Rows, look: Look) -> tuple[Tensor, bool]:
    """Decode all pictures to uint8 [N, C, H, W]; the flag says whether the tensor is mapped from a file.

    Grey and color pictures in one set all become RGB unless ``look`` says otherwise. Transparency is
    dropped and orientation tags are ignored.

    Raises:
        DataError: a picture that cannot be decoded, has more than 8 bits a channel, or differs in size from the first.
    """
    first = _open(next(iter(rows.batches()))[0], rows.name, 0)
    mode = {"grey": "L", "rgb": "RGB"}.get(look.color) or ("L" if first.mode in _GREY_MODES else "RGB")
    width, height = (look.size, look.size) if look.size else first.size
    threaded = first.width * first.height >= _PIXELS_WORTH_A_THREAD
    try:
        return _decode_as(mode, rows, look, (height, width), threaded)
    except _ColorFound:
        return _decode_as("RGB", rows, look, (height, width), threaded)


def _decode_as(mode: str, rows: Rows, look: Look, sides: tuple[int, int], threaded: bool) -> tuple[Tensor, bool]:
    shape = (len(rows), _CHANNELS[mode], *sides)
    fill = _Fill(rows, look, mode, sides, threaded)
    return storage.build(shape, lambda: digest_of({"content": rows.fingerprint(), "look": asdict(look)}), fill)


@dataclass(frozen=True)
class _Fill:
    """Writes all rows into a tensor that is already there."""

    rows: Rows
    look: Look
    mode: str
    sides: tuple[int, int]
    threaded: bool

    def __call__(self, target: Tensor) -> None:
        pixels: NDArray[np.uint8] = target.numpy()
        start = 0
        with ThreadPoolExecutor(os.cpu_count()) if self.threaded else nullcontext() as executor:
            for batch in self.rows.batches():
                self._write(pixels, batch, start, executor)
                start += len(batch)

    def _write(
        self, pixels: NDArray[np.uint8], batch: Sequence[Picture], start: int, executor: Executor | None
    ) -> None:
        def write(begin: int, end: int) -> None:
            for offset in range(begin, end):
                pixels[start + offset] = self._pixels(batch[offset], start + offset)

        if executor is None:
            write(0, len(batch))
        else:
            begins = range(0, len(batch), _ROWS_PER_TASK)
            list(executor.map(write, begins, [min(begin + _ROWS_PER_TASK, len(batch)) for begin in begins]))
        if self.look.invert:
            block = pixels[start : start + len(batch)]
            np.subtract(255, block, out=block)

    def _pixels(self, picture: Picture, row: int) -> NDArray[np.uint8]:
        """One picture as uint8 [C, H, W]."""
        image = _open(picture, self.rows.name, row)
        if self.mode == "L" and self.look.color == "keep" and image.mode not in _GREY_MODES:
            raise _ColorFound
        image = self._fitted(_recolored(image, self.mode), row)
        array: NDArray[np.uint8] = np.asarray(image)
        return array[None] if self.mode == "L" else array.transpose(2, 0, 1)

    def _fitted(self, image: Image, row: int) -> Image:
        height, width = self.sides
        if image.size == (width, height):
            return image
        if self.look.size is None:
            raise DataError(
                f"images differ in size: {self.rows.name(0)} is {width}x{height}, "
                f"{self.rows.name(row)} is {image.width}x{image.height}; "
                "expected one size; fix: add size=32, or another side in pixels"
            )
        from PIL.Image import Resampling

        return image.resize((width, height), Resampling.BILINEAR)


def _open(picture: Picture, name: Callable[[int], str], row: int) -> Image:
    """A decoded picture; what goes wrong inside a decoder becomes one `DataError`."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    try:
        image = Image.open(picture if isinstance(picture, Path) else BytesIO(picture), formats=_FORMATS)
        image.load()
    except Exception as error:
        reason = "the bytes are no image of these formats" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{name(row)} cannot be decoded: {reason}; expected a whole file of {', '.join(_FORMATS)}; "
            "fix: replace or remove it"
        ) from error
    if image.mode in _DEEP_MODES:
        raise DataError(
            f"{name(row)} has pixels of mode {image.mode}; expected at most 8 bits a channel; "
            "fix: convert it to 8 bits first"
        )
    return image


def _recolored(image: Image, mode: str) -> Image:
    if image.mode == mode:
        return image
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert(mode)
