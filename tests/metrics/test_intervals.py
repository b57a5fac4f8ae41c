from __future__ import annotations

import math

import pytest

from modelmoat.metrics.intervals import Interval, mean_interval, t_quantile


@pytest.mark.parametrize("degrees", [*range(1, 41), 60, 100, 1000, 10**6])
def test_quantile_is_that_of_scipy(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=5e-6)


def test_quantile_falls_with_the_degrees_of_freedom() -> None:
    quantiles = [t_quantile(degrees) for degrees in range(1, 50)]
    assert quantiles == sorted(quantiles, reverse=True)


def test_interval_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [0.71, 0.74, 0.69, 0.73]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / 4, scale=stats.sem(values))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)
    assert found.count == 4


def test_three_seeds_by_hand() -> None:
    found = mean_interval([0.8, 0.9, 1.0])
    assert found.mean == pytest.approx(0.9)
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3))


def test_one_value_has_no_interval() -> None:
    found = mean_interval([0.25])
    assert found == Interval(0.25, None, 1)
    assert found.low == found.high == 0.25


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.1, 0.1, 0.1]).half_width == pytest.approx(0, abs=1e-15)


def test_no_values_and_no_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)
