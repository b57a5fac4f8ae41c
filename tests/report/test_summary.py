from __future__ import annotations

import math
from typing import Any

import pytest

from modelmoat.core.errors import RunError
from modelmoat.report import summarize


def test_best_clone_is_the_best_over_attacks_and_budgets(make: Any) -> None:
    rows = [*make.curve({100: 0.5, 1000: 0.9}), *make.curve({100: 0.6, 1000: 0.8}, attack="jbda")]
    best = summarize(rows, 0.8).best
    assert best is not None
    assert (best.attack, best.budget, best.fidelity.mean) == ("knockoff", 1000, 0.9)


def test_queries_to_ninety_percent_by_hand(make: Any) -> None:
    # 0.9 * 0.9 = 0.81 lies at 31/40 of the way from 0.5 to 0.9, hence at 100 * 10 ** (31 / 40) queries.
    summary = summarize(make.curve({100: 0.5, 1000: 0.9}), 0.8)
    assert summary.best is not None
    assert summary.best.most.fidelity == pytest.approx(0.81)
    assert summary.best.most.queries == pytest.approx(100 * 10 ** (31 / 40))
    assert not summary.best.most.at_most


def test_queries_are_read_off_the_mean_curve(make: Any) -> None:
    rows = [
        make.record(budget=budget, seed=seed, fidelity=fidelity)
        for budget, fidelities in {100: (0.3, 0.5), 10_000: (0.7, 0.9)}.items()
        for seed, fidelity in enumerate(fidelities)
    ]
    summary = summarize(rows, 0.9)
    assert summary.best is not None
    assert summary.best.most.queries == pytest.approx(math.exp(math.log(100) + 0.8 * math.log(100)))


def test_smallest_budget_that_already_reaches_it_is_an_upper_bound(make: Any) -> None:
    summary = summarize(make.curve({100: 0.88, 1000: 0.9}), 0.8)
    assert summary.best is not None
    assert summary.best.most.at_most
    assert summary.best.most.queries == 100


def test_queries_to_the_target_use_the_fastest_attack(make: Any) -> None:
    rows = [*make.curve({100: 0.4, 10_000: 0.9}), *make.curve({100: 0.6, 10_000: 0.8}, attack="jbda")]
    reach = summarize(rows, 0.7).to_target
    assert reach is not None
    assert reach.attack == "jbda"
    assert reach.queries == pytest.approx(1000)


def test_target_out_of_reach(make: Any) -> None:
    summary = summarize(make.curve({100: 0.4, 1000: 0.5}), 0.8)
    assert summary.to_target is not None
    assert summary.to_target.queries is None
    assert not summary.needs_defense


def _defended(make: Any, **costs: tuple[float, float, float]) -> list[Any]:
    """An undefended curve, and one row per defense with its fidelity, defended accuracy and mean L1."""
    rows = make.curve({100: 0.6, 1000: 0.9})
    for name, (fidelity, accuracy, distance) in costs.items():
        rows += make.curve({1000: fidelity}, defense=name, defended_accuracy=accuracy, mean_l1=distance)
    return rows


@pytest.mark.parametrize(
    ("costs", "cheapest"),
    [
        ({"a": (0.7, 0.95, 0.1), "b": (0.7, 0.97, 0.9)}, "b"),  # accuracy counts first
        ({"a": (0.7, 0.97, 0.5), "b": (0.7, 0.97, 0.4)}, "b"),  # then mean L1
        ({"a": (0.7, 0.97, 0.5), "b": (0.6, 0.97, 0.5)}, "b"),  # then the clone's fidelity
        ({"b": (0.7, 0.97, 0.5), "a": (0.7, 0.97, 0.5)}, "a"),  # then the name, so that the choice repeats
        ({"a": (0.81, 0.982, 0.0), "b": (0.7, 0.5, 1.5)}, "b"),  # one that fails is no candidate
        ({"a": (0.81, 0.982, 0.0), "b": (0.8, 0.982, 0.0)}, None),  # at the target is not under it
    ],
)
def test_cheapest_defense(make: Any, costs: dict[str, tuple[float, float, float]], cheapest: str | None) -> None:
    chosen = summarize(_defended(make, **costs), 0.8).cheapest
    assert (chosen.defense if chosen else None) == cheapest


def test_a_defense_is_judged_by_its_worst_attack(make: Any) -> None:
    rows = [
        *make.curve({1000: 0.9}),
        *make.curve({1000: 0.7}, attack="jbda"),
        *make.curve({1000: 0.5}, defense="mad"),
        *make.curve({1000: 0.85}, defense="mad", attack="jbda"),
    ]
    (result,) = summarize(rows, 0.8).defenses
    assert (result.worst_attack, result.holds) == ("jbda", False)


def test_a_better_clone_at_a_smaller_budget_counts(make: Any) -> None:
    rows = [*make.curve({100: 0.5, 1000: 0.9}), *make.curve({100: 0.85, 1000: 0.7}, defense="odd")]
    (result,) = summarize(rows, 0.8).defenses
    assert (result.worst_budget, result.holds) == (100, False)


def test_a_partly_measured_defense_is_not_said_to_hold(make: Any) -> None:
    rows = [
        *make.curve({100: 0.5, 1000: 0.9}),
        *make.curve({100: 0.5, 1000: 0.9}, attack="jbda"),
        *make.curve({100: 0.3, 1000: 0.4}, defense="mad"),
        *make.curve({100: 0.3}, defense="mad", attack="jbda"),
    ]
    summary = summarize(rows, 0.8)
    (result,) = summary.defenses
    assert result.holds is None
    assert result.missing == ("jbda",)
    assert summary.cheapest is None


def test_slowdown_is_a_ratio_of_queries(make: Any) -> None:
    rows = [*make.curve({100: 0.0, 10_000: 1.0}), *make.curve({100: 0.0, 10_000: 0.95}, defense="mad")]
    (result,) = summarize(rows, 0.5).defenses
    plain, slowed = 100 ** (1 + 0.9), 100 ** (1 + 0.9 / 0.95)
    assert result.slowdown == pytest.approx(slowed / plain)


def test_accuracy_loss_is_the_mean_over_rows_at_the_largest_budget(make: Any) -> None:
    rows = [
        *make.curve({1000: 0.9}),
        make.record(defense="mad", seed=0, victim_accuracy=0.98, defended_accuracy=0.95),
        make.record(defense="mad", seed=1, victim_accuracy=0.96, defended_accuracy=0.95),
        make.record(defense="mad", seed=0, budget=10, victim_accuracy=0.98, defended_accuracy=0.1),
    ]
    (result,) = summarize(rows, 0.8).defenses
    assert result.accuracy_loss == pytest.approx(0.02)


def test_without_undefended_rows(make: Any) -> None:
    summary = summarize(make.curve({100: 0.4, 1000: 0.5}, defense="mad"), 0.8)
    assert summary.best is None
    assert summary.to_target is None
    assert summary.needs_defense
    assert summary.cheapest is not None
    assert summary.cheapest.most is None


def test_one_seed_has_no_interval(make: Any) -> None:
    summary = summarize(make.curve({100: 0.4, 1000: 0.5}), 0.8)
    assert summary.seeds == summary.fewest_seeds == 1
    assert summary.best is not None
    assert summary.best.fidelity.half_width is None


@pytest.mark.parametrize(("defense", "aware"), [("mad", True), ("none", False)])
def test_only_attackers_of_a_defense_can_be_aware_of_it(make: Any, defense: str, aware: bool) -> None:
    rows = [*make.curve({1000: 0.9}), *make.curve({500: 0.5}, defense=defense, defense_aware=True)]
    assert summarize(rows, 0.8).defense_aware is aware


def test_no_records() -> None:
    with pytest.raises(RunError, match="no records"):
        summarize([], 0.8)
