from __future__ import annotations

from typing import Any

import pytest

from modelmoat.report import actions, caveats, headline, summarize, verdict
from modelmoat.report.advice import limit_per_account, slowdown_phrase
from modelmoat.report.caution import limits
from modelmoat.report.curves import aggregate
from modelmoat.report.standards import controls


def test_verdict_of_a_full_run(make: Any) -> None:
    summary = summarize(make.plausible(), 0.8)
    text = " ".join(verdict(summary, 1.5))
    assert headline(summary) == "About 1,000 queries get an attacker most of this model"
    assert "93.0% ± 1.9" in text
    assert "a bill of 1.53" in text
    assert "mad:epsilon=0.5: the best clone agrees on 77.3%" in text
    assert "lose 0.4 points of accuracy (mean L1 0.50)" in text
    assert 2 <= len(actions(summary)) <= 4
    assert caveats(summary) == []


def test_a_clone_made_without_queries_is_no_theft(make: Any) -> None:
    """The baseline is said beside the verdict, and neither reaches targets nor judges defenses."""
    rows = [*make.curve({100: 0.4, 1000: 0.6}), *make.curve({100: 0.3, 1000: 0.5}, defense="mad")]
    without = [
        row
        for defense in ("none", "mad")
        for row in make.curve({100: 0.5, 1000: 0.9}, attack="no_victim", defense=defense, sent=0)
    ]
    plain, judged = summarize(rows, 0.7), summarize([*without, *rows], 0.7)
    assert headline(judged) == headline(plain)
    assert actions(judged) == actions(plain)
    assert judged.defenses == plain.defenses
    assert set(verdict(judged)) - set(verdict(plain)) == {
        "Without a single query, a clone agrees on 90.0%: no tested clone is above that, so none stole anything."
    }
    better = summarize([*rows, *make.curve({1000: 0.55}, attack="no_victim", sent=0)], 0.7)
    assert "a clone agrees on 55.0%: only what is above that was stolen." in " ".join(verdict(better))
    assert summarize(without, 0.7).unstolen is None


def test_price_is_left_out_when_there_is_none(make: Any) -> None:
    assert "bill" not in " ".join(verdict(summarize(make.plausible(), 0.8)))


def test_query_limit_is_half_of_what_the_target_takes(make: Any) -> None:
    summary = summarize(make.curve({100: 0.4, 10_000: 0.8}), 0.6)
    assert limit_per_account(summary) == 500
    assert any("Limit each account to about 500 queries" in action for action in actions(summary))


def test_query_limit_without_a_crossing(make: Any) -> None:
    low = summarize(make.curve({100: 0.4, 1000: 0.5}), 0.8)
    assert limit_per_account(low) == 1000
    assert "no tested attack" in headline(low).lower()
    assert "no defense is needed" in actions(low)[0]
    high = summarize(make.curve({100: 0.9, 1000: 0.95}), 0.8)
    assert limit_per_account(high) is None
    assert headline(high) == "At most 100 queries get an attacker most of this model"
    assert "smaller budgets" in actions(high)[1]


@pytest.mark.parametrize("defended", [0.3, 0.9])
def test_where_no_defense_is_needed_none_is_recommended(make: Any, defended: float) -> None:
    rows = [*make.curve({100: 0.4, 1000: 0.5}), *make.curve({100: 0.2, 1000: defended}, defense="mad")]
    summary = summarize(rows, 0.8)
    assert verdict(summary)[-1] == (
        "No defense is needed at these budgets: every tested clone of the undefended victim stays under your target of "
        "80.0% within 1,000 queries."
    )
    assert "mad" not in " ".join([*verdict(summary), *actions(summary)[:2]])


@pytest.mark.parametrize(
    ("kinds", "advised"), [(["label"], False), (["label", "probabilities"], True), (["top3"], True)]
)
def test_learning_from_labels_is_advised_where_more_than_labels_leaves(
    make: Any, kinds: list[str], advised: bool
) -> None:
    rows = make.curve({1000: 0.9})
    for kind in kinds:
        rows += make.curve({1000: 0.7}, defense="mad", output_kind=kind)
    assert any("knockoff:targets=label" in action for action in actions(summarize(rows, 0.8))) is advised


@pytest.mark.parametrize(("accuracy", "said"), [(0.41, True), (0.6, False)])
def test_a_weak_victim_is_said(make: Any, accuracy: float, said: bool) -> None:
    text = " ".join(caveats(summarize(make.curve({1000: 0.9}, victim_accuracy=accuracy), 0.8)))
    sentence = "right on only 41.0% of its test images; fidelity to a weak model says little."
    assert (sentence in text) is said


@pytest.mark.parametrize(("budget", "said"), [(99, True), (100, False)])
def test_a_short_run_is_said(make: Any, budget: int, said: bool) -> None:
    text = " ".join(caveats(summarize(make.curve({10: 0.1, budget: 0.9}), 0.8)))
    assert ("Nothing was measured past 99 queries; a patient attacker sends more." in text) is said


def test_an_interval_of_the_undefended_victim_that_reaches_the_target_is_said(make: Any) -> None:
    rows = make.curve({1000: 0.74}) + make.curve({1000: 0.78}, seed=1)
    rows += make.curve({1000: 0.7}, defense="mad") + make.curve({1000: 0.78}, defense="mad", seed=1)
    text = " ".join(caveats(summarize(rows, 0.8)))
    assert "The 95% interval of undefended, knockoff (76.0% ± 25.4) reaches your target of 80.0%" in text
    assert "mad" not in text


def test_no_defense_holds(make: Any) -> None:
    rows = [*make.curve({100: 0.6, 1000: 0.9}), *make.curve({100: 0.5, 1000: 0.85}, defense="mad")]
    both = summarize([*rows, *make.curve({1000: 0.88}, defense="round")], 0.8)
    assert "None of the tested defenses keeps" in " ".join(verdict(both))
    assert "the strongest, mad, still leaves it 85.0%" in " ".join(verdict(both))
    assert "Do not rely on the tested defenses alone" in actions(both)[0]
    assert "The tested defense does not keep" in " ".join(verdict(summarize(rows, 0.8)))


def test_the_floor_alone_is_no_tested_defense(make: Any) -> None:
    rows = [*make.curve({100: 0.6, 1000: 0.9}), *make.curve({100: 0.5, 1000: 0.85}, defense="label_only")]
    bare = summarize(rows, 0.8)
    assert "No defense was tested. Labels alone, the floor, still give a clone of 85.0%." in verdict(bare)
    assert actions(bare)[0].startswith("Test a defense")
    assert not any("knockoff:targets=label" in action for action in actions(bare))
    beside = summarize([*rows, *make.curve({1000: 0.88}, defense="mad")], 0.8)
    assert "none leaves less than labels alone do (85.0%)" in actions(beside)[0]


def test_labels_alone_are_recommended_where_they_do(make: Any) -> None:
    rows = [*make.curve({100: 0.6, 1000: 0.9}), *make.curve({100: 0.5, 1000: 0.7}, defense="label_only")]
    naive = [*rows, *make.curve({1000: 0.75}, defense="mad")]
    assert all(actions(summarize(tested, 0.8))[0].startswith("Put label_only in front") for tested in (rows, naive))


def test_one_seed_and_no_undefended_rows_are_said(make: Any) -> None:
    summary = summarize(make.curve({1000: 0.5}, defense="mad"), 0.8)
    text = " ".join(caveats(summary))
    assert "One seed only" in text
    assert "no rows of the undefended victim" in text
    assert "No undefended victim" in headline(summary)
    assert any("at least three seeds" in action for action in actions(summary))


def test_a_defense_inside_the_victims_file_is_said(make: Any) -> None:
    rows = make.curve({1000: 0.9}, defense_inside="mad:epsilon=0.4")
    assert caveats(summarize(rows, 0.8))[0].startswith("The victim’s file has mad:epsilon=0.4 inside. “None” and")
    assert "inside" not in " ".join(caveats(summarize(make.curve({1000: 0.9}), 0.8)))


def test_unfinished_runs_are_said(make: Any) -> None:
    rows = [
        *make.curve({1000: 0.9}),
        *make.curve({1000: 0.9}, seed=1),
        *make.curve({1000: 0.8}, attack="jbda"),
        *make.curve({1000: 0.4}, defense="mad"),
    ]
    summary = summarize(rows, 0.8)
    text = " ".join(caveats(summary))
    assert "mad was not measured with jbda" in text
    assert "Some rows rest on one seed rather than 2" in text
    assert "mad is not fully measured" in " ".join(verdict(summary))
    assert "Finish measuring mad" in actions(summary)[0]


def test_an_interval_that_reaches_the_target_is_said(make: Any) -> None:
    rows = make.curve({1000: 0.9}) + make.curve({1000: 0.9}, seed=1)
    rows += make.curve({1000: 0.74}, defense="mad") + make.curve({1000: 0.78}, defense="mad", seed=1)
    assert "reaches your target of 80.0%" in " ".join(caveats(summarize(rows, 0.8)))


def test_several_victims_are_said(make: Any) -> None:
    rows = [*make.curve({1000: 0.9}), *make.curve({1000: 0.95}, victim="other")]
    assert "2 victims; verdict and charts are those of the most stealable one, other" in " ".join(
        caveats(summarize(rows, 0.8))
    )


def test_sampling_error_of_the_test_set_by_hand(make: Any) -> None:
    text = " ".join(limits(summarize(make.curve({1000: 0.9}), 0.8)))
    assert "600 test inputs" in text
    assert "move 90.0% by about ± 2.4 points" in text  # 1.96 * sqrt(0.9 * 0.1 / 600)
    assert "at most ± 4.0" in text  # 1.96 * sqrt(0.25 / 600)


def test_missing_defense_aware_attacker_is_said(make: Any) -> None:
    summary = summarize(make.plausible(seeds=(0,)), 0.8)
    assert "No recorded attacker reckoned with a defense" in " ".join(limits(summary))
    known = [row.model_copy(update={"defense_aware": True}) for row in make.plausible(seeds=(0,))]
    assert "At least one recorded attacker reckoned with a defense" in " ".join(limits(summarize(known, 0.8)))


def test_slowdown_where_a_curve_ends_or_starts_too_soon(make: Any) -> None:
    plain = make.curve({100: 0.1, 1000: 0.9})
    late = make.curve({100: 0.1, 1000: 0.3}, defense="mad")
    summary = summarize([*plain, *late], 0.8)
    assert slowdown_phrase(summary.defenses[0], summary) == "over 1.3×"  # 1000 / 10 ** (2 + 0.71 / 0.8)
    early = summarize([*make.curve({100: 0.89, 1000: 0.9}), *make.curve({100: 0.85}, defense="mad")], 0.8)
    assert slowdown_phrase(early.defenses[0], early) == "unknown"


def test_no_control_is_ever_claimed_to_be_met(make: Any) -> None:
    records = make.plausible()
    found = controls(summarize(records, 0.8), aggregate(records))
    assert [control.number for control in found] == ["11.3.1", "11.3.2", "11.3.3", "11.3.4"]
    assert [control.status for control in found] == ["not assessed", "measured", "not assessed", "not assessed"]
    assert any("mad:epsilon=0.5, answering with probabilities" in line for line in found[1].evidence)
    assert "380 queries per account" in found[0].evidence[1]


def test_a_defense_that_faced_only_naive_attackers_is_not_recommended(make: Any) -> None:
    plain = make.curve({100: 0.5, 1000: 0.9})
    naive = make.curve({100: 0.3, 1000: 0.4}, defense="mad")
    assert "Do not trust mad yet" in actions(summarize([*plain, *naive], 0.8))[0]
    aware = make.curve({100: 0.3, 1000: 0.5}, defense="mad", attack="knockoff:targets=label", defense_aware=True)
    plainly = make.curve({100: 0.5, 1000: 0.8}, attack="knockoff:targets=label", defense_aware=True)
    assert "Put mad in front" in actions(summarize([*plain, *naive, *plainly, *aware], 0.85))[0]
