from __future__ import annotations

import numpy as np
import pytest

from modelmoat.core.errors import OptionError
from modelmoat.metrics.intervals import Interval
from modelmoat.studies.expectation import Expectation

HOLDS = {
    "> 0.5": lambda value: value > 0.5,
    ">= 0.5": lambda value: value >= 0.5,
    "< 0.5": lambda value: value < 0.5,
    "<= 0.5": lambda value: value <= 0.5,
    "0.5 +- 0.25": lambda value: abs(value - 0.5) <= 0.25,
}


@pytest.mark.parametrize("text", HOLDS)
@pytest.mark.parametrize("half", [0.0, 0.125, 0.25, 1.0])
@pytest.mark.parametrize("mean", np.arange(0.0, 1.125, 0.125).tolist())
def test_verdicts_are_those_of_all_points_of_the_interval(text: str, half: float, mean: float) -> None:
    inside = [HOLDS[text](value) for value in np.linspace(mean - half, mean + half, 65)]
    expected = "reproduced" if all(inside) else "undecided" if any(inside) else "not reproduced"
    assert Expectation.parse(text).verdict(Interval(mean, half, 3)) == expected


def test_one_seed_decides_nothing_and_none_is_no_test() -> None:
    expectation = Expectation.parse("> 0.5")
    assert expectation.verdict(Interval(0.9, None, 1)) == "undecided"
    assert expectation.verdict(None) == "not tested"


@pytest.mark.parametrize("text", ["", "0.5", "= 0.5", "> a", "0.5 + 0.1", "> 0.5 or so"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected a comparison"):
        Expectation.parse(text)
