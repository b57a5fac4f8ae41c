"""What a claim expects of a measured number, and the verdict on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modelmoat.core.errors import OptionError
from modelmoat.metrics.intervals import Interval

Verdict = Literal["reproduced", "not reproduced", "undecided", "not tested"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(rf"(<=|>=|<|>)\s*({_NUMBER})|({_NUMBER})\s*\+-\s*({_NUMBER})")


@dataclass(frozen=True)
class Expectation:
    """A range of numbers, written ``> 0.1``, ``<= 0.5`` or ``0.75 +- 0.05``.

    Attributes:
        low, high: its ends; infinite where there is none.
        text: as it was written.
    """

    low: float
    high: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Read an expectation; raises `OptionError`.

        >>> Expectation.parse("0.75 +- 0.05").text
        '0.75 +- 0.05'
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise OptionError(f"'{text}': expected a comparison such as '> 0.1', '<= 0.5' or '0.75 +- 0.05'")
        sign, limit, middle, tolerance = match.groups()
        if sign:
            low, high = (float(limit), float("inf")) if ">" in sign else (float("-inf"), float(limit))
            return cls(low, high, text.strip())
        return cls(float(middle) - float(tolerance), float(middle) + float(tolerance), text.strip())

    def __str__(self) -> str:
        return self.text

    def verdict(self, measured: Interval | None) -> Verdict:
        """Whether the measured interval lies in the range, outside, or across one of its ends.

        One value alone has no interval and decides nothing.

        >>> Expectation.parse("> 0.1").verdict(Interval(0.5, 0.2, 3))
        'reproduced'
        """
        if measured is None:
            return "not tested"
        if measured.half_width is None:
            return "undecided"
        if self._holds(measured.low) and self._holds(measured.high):
            return "reproduced"
        apart = measured.high < self.low or measured.low > self.high
        touching = not self._closed and (measured.high <= self.low or measured.low >= self.high)
        return "not reproduced" if apart or touching else "undecided"

    @property
    def _closed(self) -> bool:
        """Whether the ends belong to the range."""
        return "=" in self.text or "+-" in self.text

    def _holds(self, value: float) -> bool:
        return self.low <= value <= self.high if self._closed else self.low < value < self.high
