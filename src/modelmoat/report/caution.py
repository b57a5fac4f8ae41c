"""What a reader must know before quoting a number of the run."""

from __future__ import annotations

import math

from modelmoat.metrics.intervals import Interval
from modelmoat.report.summary import DefenseResult, Summary
from modelmoat.report.wording import count, listed, percent, percent_interval

_WEAK = 0.6  # accuracy under which a victim is called weak
_FEW = 100  # queries under which a run is called short


def caveats(summary: Summary) -> list[str]:
    """What a reader must know before quoting the verdict."""
    found = []
    if summary.inside:
        found.append(
            f"The victim’s file has {summary.inside} inside. “None” and “undefended” stand for the file as it is: "
            "ceiling, costs and fidelity are measured against that, not against an undefended model, and no attacker was "
            "told of the defense inside."
        )
    if summary.best is None:
        found.append(
            "There are no rows of the undefended victim: what a defense gains cannot be said. Add the defense “none”."
        )
    if summary.seeds == 1:
        found.append("One seed only: there is no interval, and a second run may differ by several points.")
    elif summary.fewest_seeds < summary.seeds:
        found.append(
            f"Some rows rest on {_seeds(summary.fewest_seeds)} rather than {summary.seeds}; the run may be unfinished."
        )
    found.extend(_unfinished(result) for result in summary.defenses if result.missing)
    if summary.victims > 1:
        found.append(
            f"The run has {summary.victims} victims; verdict and charts are those of the most stealable one, "
            f"{summary.victim}."
        )
    if summary.victim_accuracy < _WEAK:
        found.append(
            f"The victim itself is right on only {percent(summary.victim_accuracy)} of its test images; fidelity to a "
            "weak model says little."
        )
    if summary.largest_budget < _FEW:
        found.append(
            f"Nothing was measured past {count(summary.largest_budget)} queries; a patient attacker sends more."
        )
    name, fidelity = _judged(summary)
    if fidelity and fidelity.high >= summary.target_fidelity:
        found.append(
            f"The 95% interval of {name} ({percent_interval(fidelity)}) reaches your target of "
            f"{percent(summary.target_fidelity)}: more seeds could turn that verdict."
        )
    return found


def limits(summary: Summary) -> list[str]:
    """How far the numbers of this run can be trusted."""
    size = summary.test_size
    share = summary.best.fidelity.mean if summary.best else 0.5
    margin, widest = (1.96 * math.sqrt(p * (1 - p) / size) for p in (share, 0.5))
    return [
        f"Shares are measured on {count(size)} test inputs. Drawing other test inputs would move {percent(share)} by "
        f"about ± {100 * margin:.1f} points (95%), and any share by at most ± {100 * widest:.1f}.",
        _seed_limit(summary),
        _attacker_limit(summary),
        "A defense that keeps the top-1 answer cannot push a clone below what the labels alone give away.",
        "Nothing was measured past "
        f"{count(summary.largest_budget)} queries, and between budgets the curve is a straight line in log queries.",
    ]


def _judged(summary: Summary) -> tuple[str, Interval | None]:
    """Whose fidelity the verdict calls under the target: the undefended victim's, else the cheapest defense's."""
    if summary.best and not summary.needs_defense:
        return f"{summary.best.label}, {summary.best.attack}", summary.best.fidelity
    return (summary.cheapest.label, summary.cheapest.fidelity) if summary.cheapest else ("", None)


def _unfinished(result: DefenseResult) -> str:
    return (
        f"{result.label} was not measured with {listed(list(result.missing))} at the largest budget, so it cannot be "
        "shown to hold."
    )


def _seed_limit(summary: Summary) -> str:
    if summary.seeds == 1:
        return "One seed gives no interval: luck in training the clone cannot be told from a real difference."
    return (
        f"Intervals are 95% Student-t intervals over {summary.seeds} seeds. They hold the luck of training and "
        "drawing, not that of the test inputs"
        + (", and with so few seeds they are wide." if summary.seeds < 6 else ".")
    )


def _attacker_limit(summary: Summary) -> str:
    base = "“Worst case” means the best of the tested attackers; a better one may exist."
    if not summary.defenses or summary.labels_only:
        return base
    if summary.defense_aware:
        return f"{base} At least one recorded attacker reckoned with a defense."
    return (
        f"{base} No recorded attacker reckoned with a defense, so what the defenses gain is an upper bound: expect less "
        "against one who does."
    )


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"
