"""From a matplotlib figure to an SVG that lives inside the page: own ids, page colors, page fonts, a spoken title."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Tips = dict[str, list[str]]  # texts shown over the markers of a line, by the line's id
Drawn = tuple[Any, Tips]  # a matplotlib Figure, and its tips

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = "DejaVu Sans"  # comes with matplotlib; the page replaces it by its own
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "modelmoat",
    "font.family": _FONT,
    "font.size": 13,
    "axes.unicode_minus": True,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Caption:
    """Short title and one-sentence description of a drawing, read by screen readers."""

    title: str
    description: str


def draw(make: Callable[[], Drawn], prefix: str, caption: Caption, colors: Mapping[str, str]) -> str:
    """Render the figure that ``make`` builds as inline SVG text, the same for the same figure.

    Args:
        make: builds the figure; one of its inches is 72 page pixels.
        prefix: put before every id, so that several drawings share one page.
        caption: what a screen reader says.
        colors: CSS variable name by hexadecimal color; such colors follow the theme of the page.
    """
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        buffer = io.StringIO()
        figure, tips = make()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib a line above
    _strip(root)
    for element in list(root.iter()):
        _add_tips(element, tips)
        _rewrite(element, prefix, colors)
    _announce(root, prefix, caption)
    return ET.tostring(root, encoding="unicode")


def _strip(root: ET.Element) -> None:
    for child in list(root):
        if child.tag == f"{_SVG}metadata":
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.replace(_SVG, "")
        for style in [child for child in element if child.tag == f"{_SVG}style"]:
            element.remove(style)  # one rule for all lines; the page's own style sheet has it


def _add_tips(element: ET.Element, tips: Tips) -> None:
    for marker, text in zip(element.iter("use"), tips.get(element.get("id", ""), ()), strict=False):
        ET.SubElement(marker, "title").text = text


def _rewrite(element: ET.Element, prefix: str, colors: Mapping[str, str]) -> None:
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.get('id')}")
    if _LINK in element.attrib:
        element.set("href", f"#{prefix}-{element.attrib.pop(_LINK)[1:]}")
    for name, value in element.attrib.items():
        if "url(#" in value:
            element.set(name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))
    style = element.get("style")
    if style:
        element.set("style", _style(style, colors))


def _style(style: str, colors: Mapping[str, str]) -> str:
    for color, variable in colors.items():
        style = style.replace(color, f"var({variable},{color})")
    return style.replace(f"'{_FONT}'", "var(--font,sans-serif)")


def _announce(root: ET.Element, prefix: str, caption: Caption) -> None:
    """Say what the drawing is; its parts are not read out one by one."""
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", f"{caption.title}. {caption.description}")
    root.set("class", "drawing")
    label = ET.Element("title", {"id": f"{prefix}-title"})
    label.text = caption.title
    text = ET.Element("desc", {"id": f"{prefix}-desc"})
    text.text = caption.description
    root.insert(0, label)
    root.insert(1, text)
