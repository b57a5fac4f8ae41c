"""What records say of a method, in tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verdicts import plain

from modelmoat.leaderboard import Board, Cell, Standing
from modelmoat.leaderboard.methods import MethodPage, method_names
from modelmoat.leaderboard.wording import standing_rows
from modelmoat.report.wording import count, percent_interval

_NONE = "None of the published records is of this {family}.\n"
_DEFENSE = (
    "Per ranking of the [leaderboard](../../studies.md#leaderboard): the best clone that any attacker made, what it lies above "
    "the floor in points of accuracy, and what users pay.\n"
)
_ATTACK = (
    "Against the undefended victim, against labels alone, and wherever no other attacker made a better clone (bold), at the "
    "largest budget.\n"
)
_RECIPE = "The best clone that any attacker made of victims trained so, without a defense, at the largest budget.\n"


def numbers(method: MethodPage, boards: Sequence[Board]) -> str:
    """The section with all numbers of a method."""
    about, head, find = {
        "defense": (_DEFENSE, _DEFENSE_HEAD, _of_defense),
        "attack": (_ATTACK, _ATTACK_HEAD, _of_attack),
        "recovery": (_ATTACK, _ATTACK_HEAD, _of_attack),
        "recipe": (_RECIPE, _RECIPE_HEAD, _of_recipe),
    }[method.family]
    chosen = boards if method.family == "defense" else _largest(boards)
    rows = [[*_setting(board), *row] for board in chosen for row in find(method, board)]
    if not rows:
        return "## Numbers\n\n" + _NONE.format(family=method.family)
    lines = [f"| {' | '.join(row)} |".replace(" ± ", "&nbsp;±&nbsp;") for row in rows]
    return "\n".join(["## Numbers", "", about, *_heading(head), *lines, ""])


_SETTING_HEAD = ("data", "victim", "queries")
_DEFENSE_HEAD = ("as", "best clone", "gap", "by", "accuracy lost", "mean L1", "latency", "place")
_ATTACK_HEAD = ("defense", "clone accuracy", "fidelity", "seeds")
_RECIPE_HEAD = ("best clone", "by", "floor")


def _heading(head: Sequence[str]) -> list[str]:
    titles = [*_SETTING_HEAD, *head]
    return [f"| {' | '.join(titles)} |", f"| {' | '.join(['---'] * len(titles))} |"]


def _setting(board: Board) -> list[str]:
    setting = board.setting
    access = "" if setting.access == "probabilities" else f", {setting.access}"
    return [plain(setting.data), plain(setting.victim + access), count(setting.budget)]


def _largest(boards: Sequence[Board]) -> list[Board]:
    """Of each victim and kind of answers the ranking with the most queries."""
    found: dict[tuple[str, str, str], Board] = {}
    for board in sorted(boards, key=lambda board: board.setting.budget):
        found[board.setting.data, board.setting.victim, board.setting.access] = board
    return [found[key] for key in sorted(found)]


def _of_defense(method: MethodPage, board: Board) -> list[list[str]]:
    return [
        [
            _code(row["short"]),
            row["worst"],
            row["gap"],
            _code(row["attack"]),
            row["lost"],
            row["l1"],
            row["latency"],
            row["standing"],
        ]
        for row in standing_rows(board)
        if method.name in row["methods"]
    ]


def _of_attack(method: MethodPage, board: Board) -> list[list[str]]:
    standings = {standing.defense: standing for standing in board.standings}
    return [
        _cell(cell, standings[cell.defense])
        for cell in board.cells
        if method.name in method_names(method.family, [cell.attack_spec]) and _tells(cell, standings.get(cell.defense))
    ]


def _tells(cell: Cell, standing: Standing | None) -> bool:
    return standing is not None and (standing.role != "defense" or standing.attack == cell.attack)


def _cell(cell: Cell, standing: Standing) -> list[str]:
    best = "**" if standing.attack == cell.attack else ""
    clone = f"{best}{percent_interval(cell.clone_accuracy)}{best}"
    return [_code(cell.defense), clone, percent_interval(cell.fidelity), str(cell.clone_accuracy.count)]


def _of_recipe(method: MethodPage, board: Board) -> list[list[str]]:
    ceiling, floor = board.of("ceiling"), board.of("floor")
    if ceiling is None or not re.search(rf", {re.escape(method.name)}\b", board.setting.victim):
        return []
    return [
        [percent_interval(ceiling.worst), _code(ceiling.attack), percent_interval(floor.worst) if floor else "not run"]
    ]


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""
