"""One page of the site for every method, from the registries and from records under results/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from method_examples import example
from method_numbers import numbers
from verdicts import plain

from modelmoat.core.records import PARQUET_FILE
from modelmoat.leaderboard import Board, arenas, rank, read_rows
from modelmoat.leaderboard.methods import Family, MethodPage, family_pages

INDEX = "methods/index.md"
FAMILY_TITLES: dict[Family, str] = {
    "attack": "Attacks",
    "recovery": "Recoveries",
    "defense": "Defenses",
    "recipe": "Recipes",
}
_ABOUT: dict[Family, str] = {
    "attack": "An attack chooses queries and trains clones on the answers: `--attack NAME`.",
    "recovery": "A recovery is what an attacker does about a defense, beside any attack: `--attack knockoff+NAME`.",
    "defense": "A defense changes answers at inference time: `--defense NAME`, or a chain such as `dcp+rounding`.",
    "recipe": "A recipe is a way to train a victim: `modelmoat train NAME`.",
}
_HEAD = "---\nhide: [toc]\n---\n"  # tables of numbers need the room
_LIST_AFTER_TEXT = re.compile(r"(?<=[^\n])\n(?=- )")


def page_name(method: MethodPage) -> str:
    """The page's file, from the folder of documents."""
    return f"methods/{method.family}/{method.name}.md"


def pages(results: Path) -> dict[str, str]:
    """Text of the index and of every method's page, by file name."""
    boards = read_boards(results)
    methods = {family: family_pages(family) for family in FAMILY_TITLES}
    return {
        INDEX: _index(methods),
        **{page_name(method): _page(method, boards) for family in methods.values() for method in family},
    }


def read_boards(results: Path) -> list[Board]:
    """The rankings of all studies under a folder; none where there are no records."""
    folders = recorded(results)
    return [rank(arena) for arena in arenas(read_rows(folders))] if folders else []


def recorded(results: Path) -> list[Path]:
    """The folders of results that have records."""
    return [path.parent for path in sorted(results.glob(f"*/{PARQUET_FILE}"))]


def _index(methods: dict[Family, list[MethodPage]]) -> str:
    parts = ["# Methods", "", "Every attack, recovery, defense and recipe, as in `modelmoat list`."]
    for family, found in methods.items():
        parts += ["", f"## {FAMILY_TITLES[family]}", "", _ABOUT[family], "", "| name | what it does |", "| --- | --- |"]
        parts += [f"| [`{one.name}`]({family}/{one.name}.md) | {markdown(one.summary)} |" for one in found]
    return "\n".join(parts) + "\n"


def _page(method: MethodPage, boards: Sequence[Board]) -> str:
    parts = [_HEAD, f"# {plain(method.name)}", "", f"**{method.family.capitalize()}.** {markdown(method.summary)}", ""]
    if method.explanation:
        parts += [explained(method.explanation), ""]
    facts = [*([("Paper", method.paper)] if method.paper else []), *method.facts]
    if facts:
        parts += ["## Facts", "", *(f"- **{title}**: {plain(text)}" for title, text in facts), ""]
    parts += ["## Parameters", "", *_parameters(method), ""]
    parts += ["## Example", "", "```sh", example(method), "```", ""]
    return "\n".join([*parts, numbers(method, boards)])


def _parameters(method: MethodPage) -> list[str]:
    rows = [f"| `{one.name}` | `{one.default}` | {markdown(one.help)} |" for one in method.parameters]
    return ["| name | default | meaning |", "| --- | --- | --- |", *rows] if rows else ["None."]


def explained(text: str) -> str:
    """Paragraphs of a docstring: a list gets the blank line that Markdown wants before it."""
    return _LIST_AFTER_TEXT.sub("\n\n", _safe(text)) if "\n- " in text else _safe(text)


def markdown(text: str) -> str:
    """A sentence of a docstring in a cell: what stands in backticks is code, all else is plain."""
    pieces = re.split(r"(``?[^`]+``?)", " ".join((text[:1].upper() + text[1:]).split()))
    return "".join(
        f"`{piece.strip('`')}`".replace("|", r"\|") if number % 2 else plain(piece)
        for number, piece in enumerate(pieces)
    )


def _safe(text: str) -> str:
    """No HTML in prose; code blocks and code in backticks stay as they are."""
    pieces = re.split(r"(``?[^`]+``?|^    .*$)", text, flags=re.MULTILINE)
    return "".join(
        piece if number % 2 else piece.replace("<", "&lt;").replace("*", r"\*") for number, piece in enumerate(pieces)
    )
