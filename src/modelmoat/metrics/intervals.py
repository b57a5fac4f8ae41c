"""Mean and 95 % interval of a few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom; the expansion below serves the rest.
_SMALL = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)
_NORMAL = 1.959963985


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean of ``count`` values and the half width of its 95 % Student-t interval, in the unit of the values.

    ``half_width`` is None where one value alone gives no interval.
    """

    mean: float
    half_width: float | None
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval; the mean where there is none."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval; the mean where there is none."""
        return self.mean + (self.half_width or 0.0)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to five digits; raises `ValueError` below one degree of freedom.

    >>> round(t_quantile(2), 3), round(t_quantile(1000), 3)
    (4.303, 1.962)
    """
    if degrees < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {degrees}")
    if degrees <= len(_SMALL):
        return _SMALL[degrees - 1]
    return _expansion(degrees)


def _expansion(degrees: int) -> float:
    """Cornish-Fisher expansion of the t quantile in powers of one over the degrees of freedom."""
    z, n = _NORMAL, float(degrees)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**power for power, term in enumerate(terms, start=1))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval ``t * s / sqrt(n)`` with the sample deviation ``s``; raises `ValueError` without values.

    >>> mean_interval([0.5])
    Interval(mean=0.5, half_width=None, count=1)
    >>> round(mean_interval([0.8, 0.9, 1.0]).half_width, 4)
    0.2484
    """
    count = len(values)
    if not count:
        raise ValueError("the mean of no values is undefined; give at least one value")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, t_quantile(count - 1) * deviation / math.sqrt(count), count)
