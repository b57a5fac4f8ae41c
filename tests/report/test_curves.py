from __future__ import annotations

import math
from typing import Any

import pytest

from modelmoat.report.curves import aggregate, curves, is_undefended, one_victim, queries_to_reach


def test_seeds_become_one_point_with_mean_and_interval(make: Any) -> None:
    rows = [make.record(seed=seed, fidelity=value) for seed, value in enumerate((0.8, 0.9, 1.0))]
    (point,) = aggregate(rows)
    assert point.seeds == (0, 1, 2)
    assert point.fidelity.mean == pytest.approx(0.9)
    assert point.fidelity.half_width == pytest.approx(0.2484, abs=1e-4)


def test_a_cell_written_twice_counts_once(make: Any) -> None:
    rows = [make.record(fidelity=0.5), make.record(fidelity=0.7)]
    (point,) = aggregate(rows)
    assert point.seeds == (0,)
    assert point.fidelity.mean == 0.7


def test_order_is_undefended_first_then_weakest_defense_and_strongest_attack(make: Any) -> None:
    points = aggregate(make.plausible(seeds=(0,)))
    assert list(dict.fromkeys(point.defense_label for point in points)) == [
        "undefended",
        "round:digits=1",
        "reverse-sigmoid:beta=0.7",
        "mad:epsilon=0.5",
        "label-noise:rate=0.3",
    ]
    assert list(dict.fromkeys(point.attack_label for point in points)) == ["knockoff", "jbda"]
    assert [point.budget for point in points[:3]] == [250, 1000, 4000]


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"output_kind": "label"}, {"undefended (probabilities)", "undefended (label)"}),
        ({"victim": "other"}, {"undefended (digits-cnn)", "undefended (other)"}),
    ],
)
def test_settings_that_vary_are_named_in_the_label(make: Any, changes: dict[str, str], labels: set[str]) -> None:
    points = aggregate([make.record(), make.record(**changes)])
    assert {point.defense_label for point in points} == labels


def test_attack_label_names_a_varying_pool(make: Any) -> None:
    points = aggregate([make.record(), make.record(pool="noise")])
    assert {point.attack_label for point in points} == {"knockoff (photo-patches)", "knockoff (noise)"}


def test_output_kinds_of_different_defenses_need_no_name(make: Any) -> None:
    points = aggregate([make.record(), make.record(defense="label-only", output_kind="label")])
    assert {point.defense_label for point in points} == {"undefended", "label-only"}


def test_the_most_stealable_victim_is_chosen(make: Any) -> None:
    rows = [
        *make.curve({100: 0.6}),
        *make.curve({100: 0.8}, victim="weak"),
        *make.curve({100: 0.9}, victim="third", defense="mad"),
    ]
    chosen, victims = one_victim(aggregate(rows))
    assert victims == 3
    assert {point.record.victim for point in chosen} == {"weak"}


def test_interpolation_is_linear_in_log_queries(make: Any) -> None:
    points = curves(aggregate(make.curve({100: 0.4, 10_000: 0.8})))[0].points
    assert queries_to_reach(points, 0.6) == pytest.approx(1000)
    assert queries_to_reach(points, 0.5) == pytest.approx(100 * math.sqrt(10))
    assert queries_to_reach(points, 0.8) == pytest.approx(10_000)


def test_first_budget_and_no_budget(make: Any) -> None:
    points = curves(aggregate(make.curve({100: 0.4, 10_000: 0.8})))[0].points
    assert queries_to_reach(points, 0.4) == 100
    assert queries_to_reach(points, 0.81) is None


def test_a_dip_does_not_hide_the_first_crossing(make: Any) -> None:
    points = curves(aggregate(make.curve({100: 0.2, 1000: 0.8, 10_000: 0.6, 100_000: 0.9})))[0].points
    assert queries_to_reach(points, 0.5) == pytest.approx(100 * math.sqrt(10))


def test_queries_are_those_sent_not_those_allowed(make: Any) -> None:
    rows = [make.record(budget=100, fidelity=0.4), make.record(budget=10_000, sent=1000, fidelity=0.8)]
    points = curves(aggregate(rows))[0].points
    assert queries_to_reach(points, 0.8) == pytest.approx(1000)


def test_none_is_undefended_whatever_its_options() -> None:
    assert is_undefended("none")
    assert is_undefended("none:x=1")
    assert not is_undefended("nonesuch")
