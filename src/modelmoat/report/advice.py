"""The verdict and the next actions of a run, in words that need no training in the field."""

from __future__ import annotations

from modelmoat.report.curves import FLOOR
from modelmoat.report.summary import MOST, DefenseResult, Reach, Summary
from modelmoat.report.wording import (
    about,
    at_most_two_digits,
    count,
    listed,
    money,
    percent,
    percent_interval,
    points,
    ratio,
)

_MOST = f"{MOST:.0%}"


def headline(summary: Summary) -> str:
    """The finding of the run in one short sentence."""
    best = summary.best
    if best is None:
        return "No undefended victim was measured, so there is nothing to compare with"
    if not summary.needs_defense:
        return f"No tested attack copied this model within {count(summary.largest_budget)} queries"
    return _capital(f"{reach_phrase(best.most)} get an attacker most of this model")


def verdict(summary: Summary, price_per_1000: float = 0.0) -> list[str]:
    """The verdict as plain sentences, for the terminal and the top of the page.

    ``price_per_1000`` is what 1,000 queries cost; 0 leaves the price out.
    """
    return [*_stealing(summary, price_per_1000), *_defending(summary)]


def actions(summary: Summary) -> list[str]:
    """Two to four next actions, computed from the numbers."""
    return [_defense_action(summary), _limit_action(summary), *_measure_actions(summary)][:4]


def limit_per_account(summary: Summary) -> int | None:
    """Queries to allow one account: half of what the target takes; None where no measured budget stays under it."""
    reach = summary.to_target
    if reach is None or reach.at_most:
        return None
    if reach.queries is None:
        return summary.largest_budget
    return at_most_two_digits(reach.queries / 2)


def reach_phrase(reach: Reach, unit: str = " queries") -> str:
    """Queries in words: ``about 1,200 queries``, ``at most 250 queries``."""
    if reach.queries is None:
        return f"more{unit} than were tested"
    return f"at most {count(reach.queries)}{unit}" if reach.at_most else f"about {about(reach.queries)}{unit}"


def _stealing(summary: Summary, price: float) -> list[str]:
    best = summary.best
    if best is None:
        return ["This run has no rows of the undefended victim, so it cannot say how stealable the model is by itself."]
    cost = f", a bill of {money(price * (best.most.queries or 0) / 1000)} at your price" if price > 0 else ""
    return [
        "Someone who can only send inputs and read the answers trained a clone that agrees with the undefended victim "
        f"on {percent_interval(best.fidelity)} of unseen inputs ({best.attack}, {count(best.queries)} queries).",
        f"{_capital(reach_phrase(best.most))} already give {_MOST} of that{cost}.",
        *_unstolen(summary),
    ]


def _unstolen(summary: Summary) -> list[str]:
    best, without = summary.best, summary.unstolen
    if best is None or without is None:
        return []
    left = (
        "only what is above that was stolen"
        if best.fidelity.mean > without.mean
        else "no tested clone is above that, so none stole anything"
    )
    return [f"Without a single query, a clone agrees on {percent_interval(without)}: {left}."]


def _defending(summary: Summary) -> list[str]:
    target, chosen, strongest = percent(summary.target_fidelity), summary.cheapest, summary.strongest
    within = f"within {count(summary.largest_budget)} queries"
    if not summary.needs_defense:
        return [
            f"No defense is needed at these budgets: every tested clone of the undefended victim stays under your target of "
            f"{target} {within}."
        ]
    if strongest is None:
        return ["No defense was tested."]
    if chosen:
        return [
            f"The cheapest tested defense that keeps every tested clone under your target of {target} {within} is "
            f"{chosen.label}: the best clone agrees on {percent_interval(chosen.fidelity)}, and users {_price(chosen)}."
        ]
    if summary.floor_only and strongest.holds is False:
        return [
            f"No defense was tested. Labels alone, the floor, still give a clone of {percent_interval(strongest.fidelity)}."
        ]
    if all(result.holds is False for result in summary.defenses):
        lead = "None of the tested defenses keeps" if len(summary.defenses) > 1 else "The tested defense does not keep"
        who = f"the strongest, {strongest.label}," if len(summary.defenses) > 1 else strongest.label
        still = f"{who} still leaves it {percent_interval(strongest.fidelity)}."
        return [f"{lead} the best clone under your target of {target} {within}; {still}"]
    open_ones = listed([result.label for result in summary.defenses if result.holds is None])
    return [
        f"No defense is shown to keep clones under your target of {target} {within}: {open_ones} is not fully measured."
    ]


def _price(result: DefenseResult) -> str:
    change = (
        "lose no accuracy" if abs(result.accuracy_loss) < 0.0005 else f"lose {points(result.accuracy_loss)} of accuracy"
    )
    if result.accuracy_loss <= -0.0005:
        change = f"gain {points(result.accuracy_loss)} of accuracy"
    return f"{change} (mean L1 {result.mean_l1:.2f})"


def _defense_action(summary: Summary) -> str:
    target, chosen, strongest = percent(summary.target_fidelity), summary.cheapest, summary.strongest
    if summary.best and not summary.needs_defense:
        return (
            f"At these budgets no defense is needed: the best clone stays at {percent(summary.best.fidelity.mean)}, "
            f"under your target of {target}. Measure larger budgets before you rely on it."
        )
    if strongest is None:
        return "Test a defense: this run has only the undefended victim."
    if summary.floor_only and strongest.holds is False:
        return (
            "Test a defense: this run has only the undefended victim and the floor, where labels alone give a clone of "
            f"{percent(strongest.fidelity.mean)}."
        )
    if chosen and chosen.defense != FLOOR and _unaware(summary):
        return (
            f"Do not trust {chosen.label} yet: it stays under your target at the least cost, but only against attackers who "
            "ignore defenses. One who trains on labels alone undoes every defense that keeps them."
        )
    if chosen:
        return (
            f"Put {chosen.label} in front of the model before it answers strangers: of the tested defenses that stay "
            "under your target, it costs users least."
        )
    if strongest.holds is None:
        return f"Finish measuring {strongest.label}: the tested part stays under {target}, but attacks are missing."
    if strongest.defense == FLOOR:
        return (
            "Do not rely on the tested defenses alone: none leaves less than labels alone do "
            f"({percent(strongest.fidelity.mean)}). Test stronger settings of them, or what changes labels or counts queries."
        )
    return (
        f"Do not rely on the tested defenses alone. {strongest.label} helps most and users {_price(strongest)}; test "
        "stronger settings of it, or return fewer classes per answer."
    )


def _limit_action(summary: Summary) -> str:
    reach, limit, target = summary.to_target, limit_per_account(summary), percent(summary.target_fidelity)
    if reach is None:
        return "Add the undefended victim to the run: a query limit can only be sized from its curve."
    if reach.at_most:
        return (
            f"A query limit needs smaller budgets: {count(reach.queries or 0)} queries already reach your target of "
            f"{target}. Measure below that to find a limit that bites."
        )
    if limit is None or reach.queries is None:
        return (
            f"Limit each account to {count(summary.largest_budget)} queries in total: no tested attack on the "
            f"undefended victim reached {target} within them, and nothing is measured beyond."
        )
    return (
        f"Limit each account to about {count(limit)} queries in total, half of the {about(reach.queries)} with which "
        f"{reach.attack} reaches your target of {target}. Count re-sent and altered inputs, and watch for one person "
        "with several accounts."
    )


def _measure_actions(summary: Summary) -> list[str]:
    found = []
    if summary.defenses and _unaware(summary):
        found.append(
            "Repeat the run with an attacker who reckons with the defense, such as knockoff:targets=label: none of these did."
        )
    if summary.seeds < 3:
        found.append("Repeat the run with at least three seeds, so that every number has an interval worth reading.")
    return found


def _unaware(summary: Summary) -> bool:
    """Whether an attacker who reckons with defenses is missing, and would differ from those who were run."""
    return not summary.defense_aware and not summary.labels_only


def slowdown_phrase(result: DefenseResult, summary: Summary) -> str:
    """How many times the queries the same fidelity takes: ``2.4×``, or a bound where a curve ends too soon to tell."""
    base, most = summary.best.most if summary.best else None, result.most
    if base is None or most is None or not base.queries or (base.at_most and most.at_most):
        return "unknown"
    if most.queries is None:
        return (
            f"over {ratio(summary.largest_budget / base.queries)}"
            if summary.largest_budget > base.queries
            else "unknown"
        )
    return f"{'over ' if base.at_most else 'under ' if most.at_most else ''}{ratio(most.queries / base.queries)}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
