"""Plans of defenses with lists of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelmoat.core.errors import OptionError
from modelmoat.studies.study import load_study
from modelmoat.studies.units import plan_units

Write = Callable[..., Path]
PLAN = "{defense: reverse_sigmoid, calibrate: {max_l1: 0.5, images: 50}}"


def test_a_grid_stands_for_every_combination(write: Write) -> None:
    plan = '{defense: "reverse_sigmoid:variant=clipped", grid: {beta: [0.1, 3e-1], gamma: [0.2, 1]}}'
    written = [f"reverse_sigmoid:variant=clipped,beta={b},gamma={g}" for b in ("0.1", "0.3") for g in ("0.2", "1")]
    grid, _ = load_study(write((PLAN, plan)))
    by_hand, _ = load_study(write((PLAN, "\n  - ".join(f'"{one}"' for one in written))))
    assert grid == by_hand
    assert len(plan_units(grid)[1]) == 10


def test_plans_of_a_grid_are_named_after_it(write: Write) -> None:
    plan = "{name: sigmoid, defense: reverse_sigmoid, grid: {gamma: [0.2, 0.4], variant: [clipped]}, calibrate: {max_l1: 1}}"
    study, _ = load_study(write((PLAN, plan)))
    names = ["none", "sigmoid gamma=0.2,variant=clipped", "sigmoid gamma=0.4,variant=clipped"]
    assert [one.name for one in study.defenses] == names
    assert all(one.calibrate and one.calibrate.max_l1 == 1 for one in study.defenses[1:])


def test_victims_have_grids_of_their_own_and_plans_after_one_keep_their_lines(write: Write) -> None:
    own = "    defenses:\n      - {defense: top_k, grid: {k: [1, 2, 3]}}\n      - {defense: rounding, calibrate: {max_l1: 3}}\n"
    path = write(("    seeds: [0]\n", f"    seeds: [0]\n{own}"))
    with pytest.raises(OptionError, match=r"study.yaml, line 11, victims.plain.defenses.3.calibrate.max_l1: .* got 3"):
        load_study(path)
    study, _ = load_study(write(("    seeds: [0]\n", f"    seeds: [0]\n{own}"), ("max_l1: 3", "max_l1: 1")))
    assert [plan.defense.spec for plan in study.defenses_of("plain")][:3] == ["top_k:k=1", "top_k:k=2", "top_k"]


@pytest.mark.parametrize(
    ("plan", "key", "words"),
    [
        ("{defense: reverse_sigmoid, grid: {bta: [1]}}", "1.grid.bta", "has no parameter 'bta'; did you mean 'beta'"),
        ("{defense: reverse_sigmoid, grid: {beta: [1, x]}}", "1.grid", "reverse_sigmoid:beta=x: expected a number"),
        ("{defense: reverse_sigmoid, grid: {beta: 1}}", "1.grid.beta", r"expected a list of values, such as \[0.1"),
        ("{defense: reverse_sigmoid, grid: {beta: []}}", "1.grid.beta", "expected a list of values"),
        ("{defense: reverse_sigmoid, grid: {beta: [[1]]}}", "1.grid.beta", "expected a list of values"),
        ("{defense: reverse_sigmoid, grid: [1]}", "1.grid", "expected lists of values by parameter"),
        ("{defense: nope, grid: {beta: [1]}}", "1.defense", "unknown defense 'nope'"),
        ("{grid: {beta: [1]}}", "1", "a grid without a defense"),
        ('{defense: "rounding+top_k", grid: {k: [1]}}', "1.grid", "'rounding[+]top_k' has several steps; fix"),
        ('{defense: "top_k:k=2", grid: {k: [1]}}', "1.grid.k", "k is set by 'top_k:k=2' too; fix: remove one"),
        (
            "{defense: reverse_sigmoid, grid: {gamma: [1], beta: [1]}, calibrate: {max_l1: 1}}",
            "1.grid.beta",
            "calibrate finds beta itself; fix: remove it from the grid",
        ),
        ("{defense: top_k, grdi: {k: [1]}}", "1.grdi", "unknown key; did you mean 'grid'"),
        ("{defense: top_k, grid: {k: [1, 1]}}", "", "'top_k:k=1' is there twice"),
    ],
)
def test_a_mistake_in_a_grid_is_told_with_its_line(write: Write, plan: str, key: str, words: str) -> None:
    line, place = (11, f"defenses.{key}") if key else (9, "defenses")
    with pytest.raises(OptionError, match=rf"study.yaml, line {line}, {place}: .*{words}") as raised:
        load_study(write((PLAN, plan)))
    assert "\n" not in str(raised.value)
