"""What a run says about the controls of OWASP AISVS C11.3; evidence for a reviewer, never a claim that one is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelmoat.report.advice import limit_per_account
from modelmoat.report.curves import Point
from modelmoat.report.summary import Summary
from modelmoat.report.wording import count, percent, percent_interval

SOURCE = "https://github.com/OWASP/AISVS/blob/main/1.0/en/0x10-C11-Adversarial-Robustness.md"


@dataclass(frozen=True, slots=True)
class Control:
    """One control, what it asks for in our words, and what the run says about it."""

    number: str
    level: int
    asks: str
    measured: bool
    evidence: tuple[str, ...]

    @property
    def status(self) -> str:
        """``measured`` or ``not assessed``; whether the control is met is the reviewer's call."""
        return "measured" if self.measured else "not assessed"


def controls(summary: Summary, points: Sequence[Point]) -> list[Control]:
    """Evidence of a run for AISVS C11.3.1 to C11.3.4."""
    limit = _limit(summary)
    none = "No {} was tested in this run."
    return [
        Control("11.3.1", 1, "The patterns of queries are analyzed and feed a detector of extraction.",
                False, (none.format("detector"), limit)),
        Control("11.3.2", 2, "Raw outputs are not exposed, and what callers see is matched to the risk of extraction.",
                True, tuple(_leakage(points))),
        Control("11.3.3", 3, "A watermark or fingerprint lets copies be recognized.",
                False, (none.format("watermark or fingerprint"),)),
        Control("11.3.4", 3, "A detection sets off a response.",
                False, (none.format("detector and no response to one"), limit)),
    ]  # fmt: skip


def _limit(summary: Summary) -> str:
    limit = limit_per_account(summary)
    if limit is None:
        return "The measured curve gives no query limit: see the next actions at the top."
    return (
        f"For sizing alarms and limits, the measured curve suggests {count(limit)} queries per account "
        f"against a target fidelity of {percent(summary.target_fidelity)}."
    )


def _leakage(points: Sequence[Point]) -> list[str]:
    """One line per defense and output kind: the best clone that these answers allowed."""
    worst: dict[tuple[str, str], Point] = {}
    for point in points:
        key = (point.defense_label, point.record.output_kind)
        if key not in worst or point.fidelity.mean > worst[key].fidelity.mean:
            worst[key] = point
    return [
        f"{label}, answering with {kind}: best clone’s fidelity {percent_interval(point.fidelity)} "
        f"({point.attack_label}, {count(point.queries)} queries)."
        for (label, kind), point in worst.items()
    ]
