from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmoat.leaderboard import Board, Entry, Standing, arenas, rank

Rows = Callable[[list[Any]], list[Entry]]


def board(rows: list[Entry]) -> Board:
    (found,) = arenas(rows)
    return rank(found)


def standing(found: Board, defense: str) -> Standing:
    return next(one for one in found.standings if one.defense == defense)


def clones(make: Any, defense: str, accuracies: dict[str, list[float]], **changes: Any) -> list[Any]:
    """Records of one defense: accuracies by attack and seed."""
    return [
        make(defense=defense, attack=attack, clone_accuracy=value, seed=seed, **changes)
        for attack, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


@pytest.fixture
def field(make: Any) -> list[Any]:
    """The worst case of ``a`` is its second attacker's; ``b`` stops that one and is beaten by the first."""
    return [
        *clones(make, "none", {"x": [0.90, 0.92], "y": [0.80, 0.82]}),
        *clones(make, "label_only", {"x": [0.70, 0.74], "y": [0.60, 0.60]}),
        *clones(make, "a", {"x": [0.10, 0.10], "y": [0.76, 0.78]}),
        *clones(make, "b", {"x": [0.71, 0.75], "y": [0.20, 0.20]}),
        *clones(make, "c", {"x": [0.50, 0.50], "y": [0.40, 0.40]}, lost=0.0304),
        *clones(make, "d", {"x": [0.10, 0.10], "y": [0.10, 0.10]}, lost=0.3),
    ]


def test_order_is_that_of_the_best_attacker_on_the_mean_of_seeds(field: list[Any], rows: Rows) -> None:
    found = board(rows(field))
    assert [(one.defense, one.role) for one in found.standings] == [
        ("d", "defense"),
        ("c", "defense"),
        ("label_only", "floor"),
        ("b", "defense"),
        ("a", "defense"),
        ("none", "ceiling"),
    ]
    assert [(one.attack, round(one.worst.mean, 9)) for one in found.standings[2:]] == [
        ("x", 0.72),
        ("x", 0.73),
        ("y", 0.77),
        ("x", 0.91),
    ]
    assert standing(found, "a").worst.half_width == pytest.approx(12.706205 * 0.01)  # two seeds, 0.02 apart


def test_gap_is_to_the_best_clone_from_labels_seed_by_seed(field: list[Any], rows: Rows) -> None:
    gap = standing(board(rows(field)), "a").gap
    assert gap is not None
    assert gap.mean == pytest.approx(((0.76 - 0.70) + (0.78 - 0.74)) / 2)
    assert gap.half_width == pytest.approx(12.706205 * 0.01)


def test_places_are_among_those_that_lose_no_more(field: list[Any], rows: Rows) -> None:
    found = board(rows(field))
    assert {one.defense: one.ranks for one in found.standings} == {
        "a": {"1": 2, "5": 3, "any": 4},
        "b": {"1": 1, "5": 2, "any": 3},
        "c": {"5": 1, "any": 2},
        "d": {"any": 1},
        "none": {},
        "label_only": {},
    }
    assert [found.ranked(band) for band in ("1", "5", "any")] == [2, 3, 4]


@pytest.mark.parametrize(
    ("lost", "bands"), [(0.0104, ["1", "5", "any"]), (0.0106, ["5", "any"]), (-0.2, ["1", "5", "any"])]
)
def test_limits_hold_to_the_tenth_of_a_point_that_is_shown(
    make: Any, rows: Rows, lost: float, bands: list[str]
) -> None:
    found = board(rows([make(), make(defense="a", lost=lost, victim_accuracy=0.7)]))
    assert list(standing(found, "a").ranks) == bands


def test_equal_worst_cases_share_a_place_and_go_by_name(make: Any, rows: Rows) -> None:
    records = [
        make(defense=name, clone_accuracy=value) for name, value in (("z", 0.5), ("a", 0.5), ("m", 0.6), ("none", 0.9))
    ]
    found = board(rows(records))
    assert [(one.defense, one.ranks.get("any")) for one in found.standings] == [
        ("a", 1),
        ("z", 1),
        ("m", 3),
        ("none", None),
    ]
    assert board(rows(records[::-1])).standings == found.standings


def test_who_did_not_face_every_attacker_has_no_place(field: list[Any], rows: Rows, make: Any) -> None:
    found = board(rows([*field, make(defense="untried", attack="x", clone_accuracy=0.01)]))
    last = found.standings[-1]
    assert (last.defense, last.missing, set(last.ranks.values())) == ("untried", ("y",), {None})
    assert found.standings[:-1] == board(rows(field)).standings


def test_more_attackers_than_the_undefended_victim_faced_do_no_harm(field: list[Any], rows: Rows) -> None:
    more = [record.model_copy(update={"attack": "aware"}) for record in field if record.defense == "a"]
    found = standing(board(rows([*field, *more])), "a")
    assert not found.missing


NAIVE = {"knockoff": [0.9], "knockoff:targets=label": [0.8]}


def test_who_did_not_face_attackers_who_know_it_has_no_place(make: Any, rows: Rows) -> None:
    aware = NAIVE | {"knockoff+accounts": [0.7], "knockoff+inverse": [0.7]}
    found = board(
        rows(
            [
                *clones(make, "none", NAIVE),
                *clones(make, "label_only", NAIVE),
                *clones(make, "dcp:beta=0.5", aware),
                *clones(make, "reverse_sigmoid", NAIVE),
                *clones(make, "mad", NAIVE | {"knockoff+accounts": [0.7]}),
            ]
        )
    )
    assert {one.defense: one.missing for one in found.standings if one.role == "defense"} == {
        "dcp:beta=0.5": (),
        "mad": (),  # it has no inverse
        "reverse_sigmoid": ("knockoff+accounts", "knockoff+inverse"),
    }


def test_a_larger_suite_for_one_defense_costs_the_others_no_place(make: Any, rows: Rows) -> None:
    quick = NAIVE | {"knockoff+accounts": [0.7]}
    more = quick | {"mixmatch": [0.9], "knockoff+majority_vote": [0.9]}
    found = board(rows([*clones(make, "none", NAIVE), *clones(make, "mad", quick), *clones(make, "dcp", more)]))
    assert {one.defense: one.missing for one in found.standings if one.role == "defense"} == {"mad": (), "dcp": ()}
    full = board(
        rows(
            [
                *clones(make, "none", NAIVE | {"mixmatch": [0.9]}),
                *clones(make, "mad", quick),
                *clones(make, "dcp", more),
            ]
        )
    )
    assert standing(full, "mad").missing == ("knockoff+majority_vote", "mixmatch")


def test_a_defense_that_this_version_does_not_have_faces_every_attacker(make: Any, rows: Rows) -> None:
    aware = NAIVE | {"knockoff+accounts": [0.7], "knockoff+inverse": [0.7]}
    records = [*clones(make, "none", NAIVE), *clones(make, "dcp", aware), *clones(make, "unheard_of", NAIVE)]
    assert standing(board(rows(records)), "unheard_of").missing == ("knockoff+accounts", "knockoff+inverse")


def test_without_an_undefended_victim_all_attackers_count(make: Any, rows: Rows) -> None:
    found = board(rows([make(defense="a"), make(defense="a", attack="y"), make(defense="b")]))
    assert standing(found, "b").missing == ("y",)
    assert not standing(found, "a").missing


def test_best_clone_of_who_has_no_images_of_the_victims_kind(make: Any, rows: Rows) -> None:
    found = board(
        rows(
            [
                make(attack="data_at_hand:share=0.1", pool="digits,split=validation", clone_accuracy=0.9),
                make(attack="knockoff", pool="digits,split=pool", clone_accuracy=0.8),
                make(attack="jbda", clone_accuracy=0.6),
                make(attack="activethief", clone_accuracy=0.7),
                make(defense="mad", attack="data_at_hand", clone_accuracy=0.5),
            ]
        )
    )
    none, mad = standing(found, "none"), standing(found, "mad")
    assert none.attack == "data_at_hand:share=0.1"
    assert none.outsider is not None
    assert (none.outsider.attack, none.outsider.clone_accuracy.mean) == ("activethief", 0.7)
    assert mad.outsider is None


def test_pages_list_first_who_keeps_the_limit_and_last_who_has_no_place(
    field: list[Any], rows: Rows, make: Any
) -> None:
    untried = [
        make(defense="untried", attack="x", clone_accuracy=0.01, lost=0.3),
        make(defense="untried_too", attack="x", clone_accuracy=0.02),
    ]
    found = board(rows([*field, *untried]))
    assert {band: [one.defense for one in found.ordered(band)] for band in ("1", "any")} == {
        "1": ["label_only", "b", "a", "none", "d", "c", "untried", "untried_too"],
        "any": ["d", "c", "label_only", "b", "a", "none", "untried", "untried_too"],
    }


def test_clones_without_queries_rank_nobody(make: Any, rows: Rows) -> None:
    idle = make(defense="a", attack="no_victim", sent=0, clone_accuracy=0.99)
    found = board(rows([make(), make(defense="a", clone_accuracy=0.5), idle]))
    assert standing(found, "a").worst.mean == 0.5
    assert found.unasked is not None
    assert found.unasked.mean == 0.99


def test_label_answers_have_no_gap(make: Any, rows: Rows) -> None:
    records = [make(defense=name, output_kind="label") for name in ("none", "label_only", "a")]
    assert standing(board(rows(records)), "a").gap is None
