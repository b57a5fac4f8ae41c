"""How shapes of images are written, and which data options make one shape of another."""

from __future__ import annotations

from collections.abc import Sequence


def by(shape: Sequence[int]) -> str:
    """Sizes with an x between them.

    >>> by((1, 8, 8))
    '1x8x8'
    """
    return "x".join(map(str, shape))


def reshape_options(given: Sequence[int], wanted: Sequence[int]) -> str:
    """What to add to a data reference so that its images fit; empty where they do.

    The option ``size=`` makes square images only, so other sizes are asked for in words.

    Args:
        given: channels, height and width of the images.
        wanted: those that they should have.

    >>> reshape_options((3, 32, 32), (1, 8, 8))
    'grey,size=8'
    >>> reshape_options((3, 32, 32), (1, 8, 6))
    'grey,images of 8x6'
    """
    options = []
    if given[0] != wanted[0]:
        options.append("grey" if wanted[0] == 1 else "rgb")
    if tuple(given[1:]) != tuple(wanted[1:]):
        square = wanted[1] == wanted[2]
        options.append(f"size={wanted[1]}" if square else f"images of {by(wanted[1:])}")
    return ",".join(options)
