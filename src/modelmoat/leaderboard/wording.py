"""Boards in words and rounded numbers, as pages show them."""

from __future__ import annotations

import re
from typing import Any

from modelmoat.leaderboard.methods import MethodPage, method_names, method_path
from modelmoat.leaderboard.ranking import BANDS, EQUAL_UTILITY, Board, Cell, Standing
from modelmoat.report.wording import count, half_width, listed, percent_interval, points, ratio, signed_points

_WHAT = {
    "ceiling": "ceiling: the undefended victim",
    "floor": "floor: labels alone",
    "defense": "",
}
_LIMITS = {"1": "at most 1 point lost", "5": "at most 5 points lost", "any": "any loss"}
_KEPT = {
    "1": " that cost users at most 1 point of accuracy",
    "5": " that cost users at most 5 points of accuracy",
    "any": ", whatever accuracy they cost users",
}
_LONG = re.compile(r"\d+\.\d{5,}")


def board_page(board: Board) -> dict[str, Any]:
    """The setting of a board and how much is behind it."""
    setting = board.setting
    attackers = len({cell.attack for cell in board.cells if cell.sent})
    return {
        "data": setting.data,
        "victim": setting.victim,
        "access": setting.access,
        "budget": count(setting.budget),
        "attackers": _counted(attackers, "attacker"),
        "seeds": _counted(board.seeds, "seed"),
        "unasked": percent_interval(board.unasked) if board.unasked else "",
        "has_outsiders": len({cell.own_kind for cell in board.cells if cell.sent}) > 1,
        "notes": {band: _note(board, band) for band in BANDS},
    }


def _note(board: Board, band: str) -> str:
    """Who is ranked within a limit, and who comes after."""
    over = sum(standing.over(band) and not standing.missing for standing in board.standings)
    unplaced = sum(bool(standing.missing) for standing in board.standings)
    after = [f"{over} over that limit"] * bool(over) + [f"{unplaced} without a place"] * bool(unplaced)
    follow = f" After them: {listed(after)}." if after else ""
    return f"Ranked: {_counted(board.ranked(band), 'defense')}{_KEPT[band]}.{follow}"


def standing_rows(board: Board) -> list[dict[str, Any]]:
    """The defenses of a board as `Board.ordered` lists them at equal utility."""
    return [_standing(standing, board) for standing in board.ordered(EQUAL_UTILITY)]


def _standing(standing: Standing, board: Board) -> dict[str, Any]:
    specs = [spec for spec in standing.specs if spec not in standing.defense]
    methods = method_names("defense", standing.specs)
    place = standing.ranks.get(EQUAL_UTILITY)
    outsider = standing.outsider
    return {
        "label": standing.defense,
        "short": _LONG.sub(lambda number: f"{float(number[0]):.4g}", standing.defense),
        "spec": listed(specs) if specs else "",
        "methods": methods,
        "path": method_path("defense", methods[0]),
        "role": standing.role,
        "what": _WHAT[standing.role],
        "place": "–" if place is None else place,
        "ranks": standing.ranks,
        "position": board.standings.index(standing),
        "over": standing.over(EQUAL_UTILITY) and not standing.missing,
        "price": f"over the limit: costs {points(standing.lost)} of accuracy",
        "standing": _place(standing, board),
        "missing": listed(list(standing.missing)) if standing.missing else "",
        "untried": f"not tested by {_counted(len(standing.missing), 'attacker')}",
        "worst": percent_interval(standing.worst),
        "gap": "" if standing.gap is None else f"{signed_points(standing.gap.mean)}{half_width(standing.gap)}",
        "attack": standing.attack,
        "attack_path": _attack_path(standing.attack_spec),
        "outside": percent_interval(outsider.clone_accuracy) if outsider else "–",
        "outsider": outsider.attack if outsider else "",
        "outsider_path": _attack_path(outsider.attack_spec) if outsider else "",
        "lost": signed_points(standing.lost).removeprefix("+"),
        "l1": f"{standing.mean_l1:.2f}",
        "latency": "" if standing.role == "ceiling" else ratio(standing.latency_ratio),
    }


def _place(standing: Standing, board: Board) -> str:
    """The place within the tightest limit that the defense keeps."""
    if standing.role != "defense":
        return _WHAT[standing.role]
    band = next(iter(standing.ranks))
    place = standing.ranks[band]
    return "not ranked" if place is None else f"{place} of {board.ranked(band)}, {_LIMITS[band]}"


def cell_rows(board: Board, page: MethodPage) -> list[dict[str, Any]]:
    """What each attacker got from each defense, of those that a page is about, in the order of the board."""
    order = {standing.defense: number for number, standing in enumerate(board.standings)}
    methods = {standing.defense: method_names("defense", standing.specs) for standing in board.standings}
    worst = {(standing.defense, standing.attack) for standing in board.standings}
    chosen = [
        cell
        for cell in board.cells
        if page.name
        in (methods.get(cell.defense, ()) if page.family == "defense" else method_names("attack", [cell.attack_spec]))
    ]
    chosen.sort(key=lambda cell: (order.get(cell.defense, len(order)), cell.attack))
    return [_cell(cell, methods.get(cell.defense, ()), (cell.defense, cell.attack) in worst) for cell in chosen]


def _cell(cell: Cell, methods: tuple[str, ...], worst: bool) -> dict[str, Any]:
    return {
        "defense": cell.defense,
        "defense_path": method_path("defense", methods[0]) if methods else "",
        "attack": cell.attack,
        "attack_path": _attack_path(cell.attack_spec),
        "worst": worst,
        "clone": percent_interval(cell.clone_accuracy),
        "fidelity": percent_interval(cell.fidelity),
        "queries": f"{count(cell.sent)} / {count(cell.unique)}",
        "asking": _seconds(cell.query_seconds),
        "training": _seconds(cell.train_seconds),
        "seeds": cell.clone_accuracy.count,
    }


def _attack_path(reference: str) -> str:
    return method_path("attack", method_names("attack", [reference])[0])


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else count(value)


def _counted(number: int, word: str) -> str:
    return f"{count(number)} {word}{'' if number == 1 else 's'}"
