"""The pages as text: the rankings, and one page for every defense and attack."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from modelmoat import __version__
from modelmoat.leaderboard.methods import MethodPage, method_pages
from modelmoat.leaderboard.ranking import EQUAL_UTILITY, Board
from modelmoat.leaderboard.wording import board_page, cell_rows, standing_rows
from modelmoat.report.page import breakable, script_hash
from modelmoat.report.templating import page_environment
from modelmoat.report.wording import count

_CODE = re.compile(r"``?([^`]+)``?")
_FILTERS = (
    ("data", "Data set", "all data sets"),
    ("victim", "Victim", "all victims"),
    ("access", "Answers", "all kinds"),
    ("budget", "Queries", "all budgets"),
)
_BANDS = [("1", "at most 1 point"), ("5", "at most 5 points"), ("any", "any")]


def pages(boards: Sequence[Board]) -> dict[str, str]:
    """Every file of the site by its path: ``index.html``, ``defense/NAME.html`` and ``attack/NAME.html``.

    The rankings with the most places come first.
    """
    environment = _environment()
    boards = sorted(boards, key=lambda board: (-board.ranked("any"), board.setting))
    methods = method_pages(boards)
    return {
        "index.html": _index(environment, boards, methods),
        **{page.path: _method(environment, page, boards) for page in methods},
    }


def _environment() -> Environment:
    environment = page_environment("modelmoat.leaderboard")
    environment.filters |= {"breakable": breakable, "code": _code}
    style = _text("modelmoat.report", "style.css") + _text("modelmoat.leaderboard", "site.css")
    environment.globals |= {"style": Markup(style), "version": __version__, "script": ""}  # noqa: S704 - our own files
    return environment


def _index(environment: Environment, boards: Sequence[Board], methods: Sequence[MethodPage]) -> str:
    script = _text("modelmoat.leaderboard", "filter.js")
    contested = [board for board in boards if any(one.role == "defense" for one in board.standings)]
    shown = [{**board_page(board), "rows": standing_rows(board)} for board in contested]
    for row in (row for board in shown for row in board["rows"]):
        row["ranks"] = json.dumps(row["ranks"])
    for board in shown:
        board["note"], board["notes_json"] = board["notes"][EQUAL_UTILITY], json.dumps(board["notes"])
    return environment.get_template("index.html.j2").render(
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=script_hash(script),
        boards=shown,
        records=count(sum(board.size for board in boards)),
        filters=_filters(contested, shown),
        methods={name: [page for page in methods if page.family == name] for name in ("defense", "attack")},
    )


def _filters(boards: Sequence[Board], shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What can be chosen; budgets by size, all else by name."""
    size = {page["budget"]: board.setting.budget for board, page in zip(boards, shown, strict=True)}
    found = []
    for name, title, every in _FILTERS:
        values = sorted({page[name] for page in shown}, key=lambda value: (size.get(value, 0), value))
        choices = [("", every), *((value, value) for value in values)]
        found.append({"name": name, "title": title, "choices": choices})
    return [*found, {"name": "band", "title": "Accuracy lost", "choices": _BANDS}]


def _method(environment: Environment, page: MethodPage, boards: Sequence[Board]) -> str:
    shown = []
    for board in boards:
        cells = cell_rows(board, page)
        if cells:
            own = [row for row in standing_rows(board) if page.name in row["methods"]]
            shown.append({**board_page(board), "own": own, "cells": cells})
    return environment.get_template("method.html.j2").render(page=page, boards=shown)


def _code(text: str) -> Markup:
    """Text of a docstring, escaped, with what stands in backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _text(package: str, name: str) -> str:
    return files(package).joinpath("templates", name).read_text(encoding="utf-8")
