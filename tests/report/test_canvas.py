from __future__ import annotations

import pytest

from modelmoat.metrics.intervals import Interval
from modelmoat.report import wording
from modelmoat.report.canvas import WIDE, fitted, panels, query_axis, share_axis, shorten, spread
from modelmoat.report.series import assign


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([10.0, 40.0, 70.0], [10.0, 40.0, 70.0]),
        ([40.0, 10.0], [40.0, 10.0]),
        ([50.0, 50.0, 50.0], [40.0, 50.0, 60.0]),
        ([0.0, 0.0], [0.0, 10.0]),
        ([100.0, 99.0], [100.0, 90.0]),
    ],
)
def test_labels_move_apart_and_stay_inside(places: list[float], expected: list[float]) -> None:
    assert spread(places, 10, 0, 100) == pytest.approx(expected)


def test_looks_differ_and_the_undefended_victim_has_the_ink() -> None:
    looks = assign([("undefended", True), *((f"d{place}", False) for place in range(14))])
    assert looks["undefended"].variable == "--s0"
    assert len({(look.color, look.line) for look in looks.values()}) == 15
    assert "--s0" not in {look.variable for look in assign([("d", False)]).values()}


def test_ticks_surround_the_values() -> None:
    _, (axes,) = panels(WIDE, 1)
    assert share_axis(axes.yaxis, [0.43, 0.88]) == pytest.approx((0.4, 0.9))
    assert share_axis(axes.yaxis, [0.02, 0.97]) == pytest.approx((0, 1))
    assert share_axis(axes.yaxis, [-0.2, 1.3]) == pytest.approx((0, 1))
    low, high = share_axis(axes.yaxis, [0.5])
    assert low < high


def test_crowded_budgets_lose_labels_but_keep_the_last() -> None:
    _, (axes,) = panels(WIDE, 1)
    query_axis(axes, list(range(1000, 1100)))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[-1] == "1,099"
    assert len(labels) < 20


def test_gutter_fits_the_names() -> None:
    assert fitted(WIDE, ["undefended"]).gutter < WIDE.gutter
    assert fitted(WIDE, ["x" * 80]).gutter == WIDE.gutter
    assert shorten("x" * 80) == "x" * 24 + "…"


def test_wording() -> None:
    assert wording.percent(-0.00001) == "0.0%"
    assert wording.percent(-0.012) == "−1.2%"
    assert wording.percent_interval(Interval(0.5, None, 1)) == "50.0%"
    assert wording.about(7) == "7"
    assert wording.ratio(0.96) == "1.0×"
