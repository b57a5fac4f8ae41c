"""The two drawings of the page: fidelity against queries, and what a defense costs against what it gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelmoat.metrics.intervals import Interval
from modelmoat.report.canvas import (
    NARROW,
    SMALL,
    WIDE,
    Format,
    dress,
    fitted,
    label_right,
    panels,
    query_axis,
    share_axis,
    shorten,
)
from modelmoat.report.curves import Curve
from modelmoat.report.series import COLORS, GRID, MUTED, PAPER, RULE, Series
from modelmoat.report.summary import Summary
from modelmoat.report.svg import Caption, Drawn, Tips, draw
from modelmoat.report.wording import about, count, percent, percent_interval

_NUDGE = 1.012  # neighboring series step aside by this factor, so that their intervals stay apart


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing in its two formats, as inline SVG; ``named`` says that every line carries its whole name."""

    wide: str
    narrow: str
    named: bool


@dataclass(frozen=True, slots=True)
class Dot:
    """One defense in the trade-off: shares, and mean L1 in [0, 2]."""

    label: str
    clone_accuracy: Interval
    defended_accuracy: float
    mean_l1: float


def curve_chart(lines: Sequence[Curve], looks: Mapping[str, Series], summary: Summary) -> Chart:
    """Fidelity against queries: one panel per attack, one line per defense, 95 % intervals as bars."""
    caption = Caption("Fidelity against queries", _curve_words(lines, summary))
    return _chart(partial(_curves, lines, looks, summary), "curves", caption, looks)


def tradeoff_chart(dots: Sequence[Dot], looks: Mapping[str, Series]) -> Chart:
    """Clone accuracy of the worst case against defended accuracy, and against the mean L1 of the answers."""
    words = "; ".join(map(_dot_words, dots))
    caption = Caption("Clone accuracy against the price of each defense", words + ".")
    return _chart(partial(_tradeoff, dots, looks), "tradeoff", caption, looks)


def _chart(make: Any, name: str, caption: Caption, looks: Mapping[str, Series]) -> Chart:
    forms = (fitted(WIDE, list(looks)), NARROW)
    wide, narrow = (draw(partial(make, form), f"{name}-{form.name}", caption, COLORS) for form in forms)
    return Chart(wide, narrow, forms[0].labeled and all(shorten(label) == label for label in looks))


def _curves(lines: Sequence[Curve], looks: Mapping[str, Series], summary: Summary, form: Format) -> Drawn:
    attacks = list(dict.fromkeys(line.attack for line in lines))
    figure, axes = panels(form, len(attacks))
    queries = [point.queries for line in lines for point in line.points]
    ends = [end for line in lines for p in line.points for end in (p.fidelity.low, p.fidelity.high)]
    order = list(looks)
    tips: Tips = {}
    for place, (attack, panel) in enumerate(zip(attacks, axes, strict=True)):
        mine = [line for line in lines if line.attack == attack]
        dress(panel, attack, "fidelity of the clone", "queries answered, log scale")
        panel.set_ylim(*share_axis(panel.yaxis, [*ends, summary.target_fidelity - 0.02]))
        query_axis(panel, queries)
        _target_line(panel, summary.target_fidelity)
        for line in mine:
            step = order.index(line.defense) - (len(order) - 1) / 2
            name = f"line-{place}-{order.index(line.defense)}"
            tips[name] = _line(panel, line, looks[line.defense], _NUDGE**step, name)
        if form.labeled:
            last = [(looks[line.defense], line.points[-1].queries, line.points[-1].fidelity.mean) for line in mine]
            label_right(panel, last)
        if summary.best and attack == summary.best.attack:
            _most_mark(panel, summary)
    return figure, tips


def _line(panel: Any, line: Curve, look: Series, shift: float, name: str) -> list[str]:
    """Draw one line with interval bars; returns what its markers say when pointed at."""
    x = [max(1.0, point.queries) * shift for point in line.points]
    means = [point.fidelity.mean for point in line.points]
    lows = [max(0.0, point.fidelity.low) for point in line.points]
    highs = [min(1.0, point.fidelity.high) for point in line.points]
    front = 4 if line.undefended else 3
    panel.vlines(x, lows, highs, color=look.color, linewidth=1.4, alpha=0.55, zorder=front - 1)
    panel.plot(x, means, color=look.color, linestyle=look.line, linewidth=2.4 if line.undefended else 1.8, zorder=front)
    panel.plot(
        x, means, linestyle="none", marker=look.marker, markersize=8 * look.scale, color=look.color,
        markeredgecolor=PAPER, markeredgewidth=1.2, zorder=front + 1, gid=name, clip_on=False,
    )  # fmt: skip
    return [
        f"{line.defense}, {line.attack}: {percent_interval(point.fidelity)} after {count(point.queries)} queries"
        for point in line.points
    ]


def _target_line(panel: Any, target: float) -> None:
    panel.axhline(target, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    panel.annotate(
        f"your target {percent(target)}", (0, target), (2, 5), xycoords=("axes fraction", "data"),
        textcoords="offset pixels", fontsize=SMALL - 0.5, color=MUTED,
    )  # fmt: skip


def _most_mark(panel: Any, summary: Summary) -> None:
    """A drop line where the undefended curve reaches most of the best clone's fidelity."""
    best = summary.best
    if best is None or best.most.queries is None or best.most.at_most:
        return
    bottom, _ = panel.get_ylim()
    panel.vlines(
        best.most.queries, bottom, best.most.fidelity, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)), zorder=2
    )
    left = panel.transData.transform((best.most.queries, 0))[0] > (panel.bbox.x0 + panel.bbox.x1) / 2
    panel.annotate(
        f"90% of the best:\nabout {about(best.most.queries)} queries",
        (best.most.queries, bottom), (-6 if left else 6, 8), textcoords="offset pixels",
        ha="right" if left else "left", fontsize=SMALL - 0.5, color=MUTED, zorder=6,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
    )  # fmt: skip


def _tradeoff(dots: Sequence[Dot], looks: Mapping[str, Series], form: Format) -> Drawn:
    figure, (left, right) = panels(form, 2)
    tips: Tips = {}
    dress(left, "Price in accuracy", "clone accuracy; lower right is better", "defended accuracy")
    dress(
        right,
        "Price in changed answers",
        "clone accuracy; lower left is better",
        "mean L1 between clean and served answers",
    )
    ends = [end for dot in dots for end in (dot.clone_accuracy.low, dot.clone_accuracy.high)]
    for panel in (left, right):
        panel.set_ylim(*share_axis(panel.yaxis, ends))
        panel.grid(axis="x", color=GRID, linewidth=1)
    _accuracy_axis(left, [dot.defended_accuracy for dot in dots])
    _distance_axis(right, [dot.mean_l1 for dot in dots])
    for number, (panel, name) in enumerate(((left, "defended_accuracy"), (right, "mean_l1"))):
        for place, dot in enumerate(dots):
            tips[f"dot-{number}-{place}"] = [
                _dot(panel, dot, getattr(dot, name), looks[dot.label], f"dot-{number}-{place}")
            ]
        if form.labeled:
            label_right(panel, [(looks[dot.label], getattr(dot, name), dot.clone_accuracy.mean) for dot in dots])
    return figure, tips


def _dot(panel: Any, dot: Dot, x: float, look: Series, name: str) -> str:
    clone = dot.clone_accuracy
    panel.vlines(x, max(0.0, clone.low), min(1.0, clone.high), color=look.color, linewidth=1.4, alpha=0.55, zorder=2)
    panel.plot(
        [x], [clone.mean], linestyle="none", marker=look.marker, markersize=11 * look.scale, color=look.color,
        markeredgecolor=PAPER, markeredgewidth=1.4, zorder=5 if look.variable == "--s0" else 4, gid=name, clip_on=False,
    )  # fmt: skip
    return _dot_words(dot)


def _dot_words(dot: Dot) -> str:
    clone, defended = percent_interval(dot.clone_accuracy), percent(dot.defended_accuracy)
    return f"{dot.label}: clone accuracy {clone}, defended accuracy {defended}, mean L1 {dot.mean_l1:.2f}"


def _accuracy_axis(panel: Any, values: Sequence[float]) -> None:
    width = max(values) - min(values)
    step = 0.01 if width <= 0.04 else 0.02 if width <= 0.1 else 0.1
    low, high = share_axis(panel.xaxis, [min(values) - 0.002, max(values) + 0.002], step)
    panel.set_xlim(low, high)


def _distance_axis(panel: Any, values: Sequence[float]) -> None:
    top = max(0.1, 1.08 * max(values))
    panel.set_xlim(-0.04 * top, top)
    panel.axvline(0, color=RULE, linewidth=1)


def _curve_words(lines: Sequence[Curve], summary: Summary) -> str:
    last = "; ".join(
        f"{line.defense} with {line.attack}: {percent_interval(line.points[-1].fidelity)} after "
        f"{count(line.points[-1].queries)} queries"
        for line in lines
    )
    return f"Target {percent(summary.target_fidelity)}. Last point of each line: {last}."
