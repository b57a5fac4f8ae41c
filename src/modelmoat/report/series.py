"""How a defense looks in every drawing, legend and table: a color, a marker and a line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

INK, MUTED, GRID, PAPER, RULE = "#1b2430", "#5a6676", "#e4e8ed", "#fefefe", "#b4bcc7"
_SERIES = ("#1b2431", "#0072b2", "#c9500a", "#00845f", "#a6478a", "#96700a", "#5552c9", "#7a5230")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_PATHS = (
    "M6 1.5a4.5 4.5 0 1 0 .01 0z",
    "M2 2h8v8h-8z",
    "M6 1.2 11 10.4H1z",
    "M6 .8 11.2 6 6 11.2.8 6z",
    "M6 10.8 1 1.6h10z",
    "M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z",
    "M3.2 1 6 3.8 8.8 1 11 3.2 8.2 6 11 8.8 8.8 11 6 8.2 3.2 11 1 8.8 3.8 6 1 3.2z",
    "M6 .8 11.2 4.6 9.2 10.8H2.8L.8 4.6z",
)
_LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)))

COLORS = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--card",
    RULE: "--rule",
    **{color: f"--s{index}" for index, color in enumerate(_SERIES)},
}


@dataclass(frozen=True, slots=True)
class Series:
    """One defense as it is drawn: hexadecimal color, matplotlib marker and line, and the marker as a 12 px SVG path."""

    name: str
    color: str
    marker: str
    path: str
    line: str | tuple[int, tuple[int, ...]]

    @property
    def scale(self) -> float:
        """Factor by which this marker is drawn larger, so that all markers look equally large."""
        return 1.2 if self.marker in "^vPXp" else 1.0

    @property
    def variable(self) -> str:
        """CSS variable that holds the color in the theme of the page."""
        return COLORS[self.color]


def assign(names: Iterable[tuple[str, bool]]) -> dict[str, Series]:
    """Give each ``(label, undefended)`` a look: the first undefended one the ink, the others the colors in turn."""
    looks: dict[str, Series] = {}
    colors, turn = len(_SERIES) - 1, 0
    for name, undefended in dict.fromkeys(names):
        if undefended and not looks:
            looks[name] = Series(name, _SERIES[0], _MARKERS[0], _PATHS[0], _LINES[0])
            continue
        place, line = 1 + turn % colors, turn // colors % len(_LINES)
        looks[name] = Series(name, _SERIES[place], _MARKERS[place], _PATHS[place], _LINES[line])
        turn += 1
    return looks
