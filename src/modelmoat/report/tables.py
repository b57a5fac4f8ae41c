"""The tables of the page as plain values: headings, cell texts and the numbers to sort by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelmoat.metrics.intervals import Interval
from modelmoat.report.advice import reach_phrase, slowdown_phrase
from modelmoat.report.curves import Point
from modelmoat.report.gap import Gap, gap_points
from modelmoat.report.summary import DefenseResult, Reach, Summary
from modelmoat.report.wording import MINUS, count, money, percent, percent_interval, ratio


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a cell, and what to sort it by."""

    text: str
    sort: str | float


@dataclass(frozen=True, slots=True)
class Column:
    """Heading of a column, its explanation, and whether it holds numbers."""

    heading: str
    help: str
    numeric: bool
    cell: Callable[[Point], Cell]


@dataclass(frozen=True, slots=True)
class Price:
    """One line of the cost table: what the attacker gets from the undefended victim and behind the cheapest defense."""

    queries: str
    cost: str
    undefended: str
    defended: str
    strong: bool = False


def _share(name: str) -> Callable[[Point], Cell]:
    return lambda point: Cell(percent_interval(point.metrics[name]), point.metrics[name].mean)


def _plain(name: str, digits: int, sign: str = "") -> Callable[[Point], Cell]:
    return lambda point: Cell(_decimal(point.metrics[name], digits, sign), point.metrics[name].mean)


def _decimal(value: Interval, digits: int, sign: str) -> str:
    half = "" if value.half_width is None else f" ± {value.half_width:.{digits}f}"
    return f"{value.mean:.{digits}f}{sign}{half}"


def _optional_share(name: str) -> Callable[[Point], Cell]:
    share = _share(name)
    return lambda point: share(point) if name in point.metrics else Cell("not measured", -1.0)


def _queries(point: Point) -> Cell:
    sent, unique = point.metrics["sent"].mean, point.metrics["unique"].mean
    return Cell(f"{count(sent)} / {count(unique)}", sent)


def _calibration(point: Point) -> Cell:
    before, after = (point.metrics[name].mean for name in ("calibration_error", "defended_calibration_error"))
    return Cell(f"{percent(before)} / {percent(after)}", after)


COLUMNS: tuple[Column, ...] = (
    Column("Defense", "what stood in front of the model", False, lambda p: Cell(p.defense_label, p.defense_label)),
    Column("Attack", "how the clone was made", False, lambda p: Cell(p.attack_label, p.attack_label)),
    Column("Budget", "inputs the attacker was allowed to send", True, lambda p: Cell(count(p.budget), p.budget)),
    Column("Sent / unique", "inputs answered, repeats included, and different ones", True, _queries),
    Column("Fidelity", "test inputs where clone and undefended victim agree", True, _share("fidelity")),
    Column("Clone accuracy", "of the clone, on true labels", True, _share("clone_accuracy")),
    Column("Served fidelity", "test inputs where clone and served answer agree", True, _share("served_fidelity")),
    Column("Relative accuracy", "clone accuracy over victim accuracy", True, _share("relative_accuracy")),
    Column("Victim accuracy", "of the undefended victim", True, _share("victim_accuracy")),
    Column("Defended accuracy", "of the served answers", True, _share("defended_accuracy")),
    Column("Mean L1", "distance between clean and served answers, 0 to 2", True, _plain("mean_l1", 3)),
    Column("Top-1 changed", "test inputs whose top answer the defense changed", True, _share("top1_changed")),
    Column("Calibration error", "expected calibration error before / after the defense", True, _calibration),
    Column("Latency", "time of a defended query over an undefended one", True, _plain("latency_ratio", 2, "×")),
    Column("Seeds", "runs behind the mean", True, lambda p: Cell(str(len(p.seeds)), len(p.seeds))),
)


_ROBUSTNESS = {
    "robust_accuracy": ("Robust accuracy", "of the undefended victim, attacked through its own gradients, at most"),
    "clone_robust_accuracy": ("Clone robust accuracy", "of the clone, attacked through its own gradients, at most"),
    "transfer": ("Transfer", "right answers of the victim that turn wrong on images changed to fool the clone"),
}


def columns(points: Sequence[Point]) -> list[Column]:
    """The columns of all runs, and those of robustness where some point has it."""
    how = "; ".join(dict.fromkeys(_evasion(point) for point in points if point.record.robust_attack))
    robust = [
        Column(heading, f"{what}; {how}", True, _optional_share(name))
        for name, (heading, what) in _ROBUSTNESS.items()
        if any(name in point.metrics for point in points)
    ]
    return [*COLUMNS[:-1], *robust, COLUMNS[-1]]


def _evasion(point: Point) -> str:
    row = point.record
    size = count(row.robust_size or 0)
    return f"{row.robust_attack}, changes of at most {row.robust_epsilon:.3g} ({row.robust_norm}), {size} test images"


def rows(points: Sequence[Point]) -> list[list[Cell]]:
    """All points, one row each, one cell per column."""
    shown = columns(points)
    return [[column.cell(point) for column in shown] for point in points]


def defense_rows(summary: Summary) -> list[dict[str, str]]:
    """One line per defense: what it takes from the attacker and what it costs the users."""
    lines = [_undefended(summary)] if summary.best else []
    return lines + [_defended(result, summary) for result in summary.defenses]


def gap_rows(found: Sequence[Gap]) -> list[dict[str, str]]:
    """One line per defense: its worst case between floor and ceiling."""
    return [
        {
            "label": gap.defense,
            "attack": gap.attack,
            "worst": percent(gap.worst),
            "floor": percent(gap.floor),
            "ceiling": "not measured" if gap.ceiling is None else percent(gap.ceiling),
            "gap": gap_points(gap),
            "budget": count(gap.budget),
            "bought": gap.bought or "–",
        }
        for gap in found
    ]


def _undefended(summary: Summary) -> dict[str, str]:
    best = summary.best
    if best is None:
        return {}
    return {
        "label": best.label,
        "fidelity": percent_interval(best.fidelity),
        "attack": best.attack,
        "queries": reach_phrase(best.most, ""),
        "slowdown": "1.0×",
        "loss": "0.0",
        "l1": "0.00",
        "latency": "1.0×",
        "verdict": "under" if not summary.needs_defense else "over",
    }


def _defended(result: DefenseResult, summary: Summary) -> dict[str, str]:
    return {
        "label": result.label,
        "fidelity": percent_interval(result.fidelity),
        "attack": result.worst_attack,
        "queries": _reached(result.most, summary),
        "slowdown": slowdown_phrase(result, summary),
        "loss": _loss(result.accuracy_loss),
        "l1": f"{result.mean_l1:.2f}",
        "latency": ratio(result.latency_ratio),
        "verdict": {True: "under", False: "over", None: "unfinished"}[result.holds],
    }


def prices(summary: Summary, points: Sequence[Point], price_per_1000: float) -> list[Price]:
    """What the attacker pays and gets: at each budget, and for most of the model, by rising number of queries."""
    lines = {
        float(budget): _budget_price(budget, points, summary, price_per_1000) for budget in {p.budget for p in points}
    }
    best = summary.best
    if best and best.most.queries is not None and not best.most.at_most:
        what = f"{reach_phrase(best.most, '')} (90% of the best)"
        cost = money(price_per_1000 * best.most.queries / 1000)
        lines[best.most.queries - 0.1] = Price(what, cost, percent(best.most.fidelity), "", strong=True)
    return [lines[queries] for queries in sorted(lines)]


def _budget_price(budget: int, points: Sequence[Point], summary: Summary, price: float) -> Price:
    here = [point for point in points if point.budget == budget]
    plain = _best_fidelity([point for point in here if point.undefended])
    chosen = summary.cheapest.label if summary.cheapest else None
    held = _best_fidelity([point for point in here if point.defense_label == chosen])
    reached = summary.best is not None and summary.best.most.at_most and budget == min(point.budget for point in points)
    note = " (at most, for 90% of the best)" if reached else ""
    return Price(count(budget) + note, money(price * budget / 1000), plain, held, strong=reached)


def _best_fidelity(points: Sequence[Point]) -> str:
    best = max(points, key=lambda point: point.fidelity.mean, default=None)
    return "" if best is None else percent_interval(best.fidelity)


def _reached(reach: Reach | None, summary: Summary) -> str:
    if reach is None:
        return ""
    return f"not within {count(summary.largest_budget)}" if reach.queries is None else reach_phrase(reach, "")


def _loss(share: float) -> str:
    text = f"{100 * share:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)
