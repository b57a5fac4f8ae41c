"""Panels in page pixels, their axes, and labels that keep out of each other's way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelmoat.report.series import GRID, INK, MUTED, RULE, Series
from modelmoat.report.wording import count

TEXT, SMALL, LABEL_GAP = 13, 12, 17.0
_LONGEST = 25


@dataclass(frozen=True, slots=True)
class Format:
    """Size of a drawing in page pixels: ``gutter`` at the right of each panel holds the names of its lines."""

    name: str
    width: int
    panel_height: int
    columns: int
    gutter: int
    left: int = 50
    top: int = 56
    bottom: int = 50

    @property
    def labeled(self) -> bool:
        """Whether lines carry their names; without room, the legend below the drawing does."""
        return self.gutter > 100


WIDE = Format("wide", 984, 380, 2, 180)
NARROW = Format("narrow", 326, 300, 1, 14, left=44)
MOST_NAMED = 14  # lines whose names fit beside them, one below the other


def shorten(name: str) -> str:
    """A name that fits beside a line; the legend has it whole."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def fitted(form: Format, names: Sequence[str]) -> Format:
    """The format with a gutter no wider than the names need; with none where they are too many to stand there."""
    if not form.labeled:
        return form
    if len(names) > MOST_NAMED:
        return replace(form, gutter=NARROW.gutter)
    longest = max(len(shorten(name)) for name in names)
    return replace(form, gutter=min(form.gutter, 110 if longest < 12 else 36 + int(6 * longest)))


def panels(form: Format, number: int) -> tuple[Any, list[Any]]:
    """A matplotlib figure with ``number`` axes in rows of ``form.columns``."""
    from matplotlib.figure import Figure

    columns = min(form.columns, number)
    lines = math.ceil(number / columns)
    height = form.panel_height * lines
    figure = Figure(figsize=(form.width / 72, height / 72), dpi=72)
    cell = form.width / columns
    axes = []
    for place in range(number):
        line, column = divmod(place, columns)
        x, y = column * cell + form.left, height - (line + 1) * form.panel_height + form.bottom
        wide, high = cell - form.left - form.gutter, form.panel_height - form.top - form.bottom
        axes.append(figure.add_axes((x / form.width, y / height, wide / form.width, high / height)))
    return figure, axes


def dress(axes: Any, title: str, subtitle: str, xlabel: str) -> None:
    """Title at the left, horizontal rules only, quiet ticks."""
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=MUTED, pad=7)
    axes.tick_params(axis="x", length=4, color=RULE)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=SMALL, color=MUTED, labelpad=6)
    for text, rise, size, color, weight in ((title, 34, TEXT + 1, INK, "bold"), (subtitle, 15, SMALL, MUTED, "normal")):
        axes.annotate(
            text, (0, 1), (0, rise), xycoords="axes fraction", textcoords="offset pixels",
            fontsize=size, color=color, weight=weight, parse_math=False,
        )  # fmt: skip


def share_axis(axis: Any, values: Sequence[float], step: float = 0.1) -> tuple[float, float]:
    """Ticks in whole percents around ``values``, at most seven of them; returns the limits."""
    low, high = max(0.0, min(values)), min(1.0, max(values))
    for wider in (step, 2 * step, 2.5 * step):
        start, end = math.floor(low / wider + 1e-9), math.ceil(high / wider - 1e-9)
        if end == start:
            start, end = start - 1, end + 1
        if end - start <= 6:
            break
    ticks = [place * wider for place in range(start, end + 1) if -1e-9 <= place * wider <= 1 + 1e-9]
    digits = 0 if wider >= 0.01 - 1e-9 else 1
    axis.set_ticks(ticks, labels=[f"{100 * tick:.{digits}f}%" for tick in ticks])
    return ticks[0], ticks[-1]


def query_axis(axes: Any, queries: Sequence[float]) -> None:
    """Logarithmic queries with a tick at each measured budget that has room for its label."""
    low, high = max(1.0, min(queries)), max(1.0, *queries)
    pad = (high / low) ** 0.06 if high > low else 2.0
    axes.set_xscale("log")
    axes.set_xlim(low / pad, high * pad)
    axes.xaxis.set_minor_locator(_no_ticks())
    kept = thin(sorted({max(1.0, value) for value in queries}), axes)
    axes.set_xticks(kept, labels=[count(value) for value in kept])


def thin(values: Sequence[float], axes: Any) -> list[float]:
    """The values whose labels fit beside each other; the last one always stays."""
    place = {value: axes.transData.transform((value, 1))[0] for value in values}
    room = {value: 7.5 * len(count(value)) + 12 for value in values}
    kept: list[float] = []
    for value in reversed(values):
        if not kept or place[kept[-1]] - place[value] >= (room[kept[-1]] + room[value]) / 2:
            kept.append(value)
    return kept[::-1]


def label_right(axes: Any, ends: Sequence[tuple[Series, float, float]]) -> None:
    """Name each ``(series, x, y)`` in the gutter at the right, joined to its point by a thin line."""
    right = axes.bbox.x1
    pixels = [axes.transData.transform((x, y)) for _, x, y in ends]
    heights = spread([float(pixel[1]) for pixel in pixels], LABEL_GAP, axes.bbox.y0, axes.bbox.y1)
    for (series, x, y), height in zip(ends, heights, strict=True):
        axes.annotate(
            shorten(series.name), (x, y), (right + 20, height), xycoords="data", textcoords="figure pixels",
            va="center_baseline", fontsize=SMALL + 0.5, color=series.color, parse_math=False, annotation_clip=False,
        )  # fmt: skip
        start = axes.transData.transform((x, y))
        _leader(axes, start, (right + 15, height), series.color)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places as little as possible (least squares) so that neighbors are ``gap`` apart, inside the limits.

    >>> spread([10.0, 10.0, 50.0], 10, 0, 100)
    [5.0, 15.0, 50.0]
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[tuple[float, int]] = []  # mean of (place - rank * gap), size
    for rank, index in enumerate(order):
        mean, size = places[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, many = blocks.pop()
            mean, size = (before * many + mean * size) / (many + size), many + size
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    top = max(low, high - gap * (len(places) - 1))
    moved = [0.0] * len(places)
    for rank, index in enumerate(order):
        moved[index] = min(max(flat[rank], low), top) + rank * gap
    return moved


def _leader(axes: Any, start: Sequence[float], end: tuple[float, float], color: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    line = Line2D([start[0] + 7, axes.bbox.x1 + 2, end[0]], [start[1], start[1], end[1]], transform=IdentityTransform())
    line.set(color=color, linewidth=0.9, alpha=0.45, zorder=1, clip_on=False)
    axes.figure.add_artist(line)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
