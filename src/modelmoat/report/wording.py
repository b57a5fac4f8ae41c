"""How numbers are written: one form for each kind, in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Callable

from modelmoat.metrics.intervals import Interval

MINUS = "\N{MINUS SIGN}"


def percent(share: float) -> str:
    """A share as a percentage with one decimal.

    >>> percent(0.9123)
    '91.2%'
    """
    return f"{_signed(100 * share, '.1f')}%"


def percent_interval(value: Interval) -> str:
    """A share with its 95 % interval in percentage points, where there is one."""
    return f"{percent(value.mean)}{half_width(value)}"


def half_width(value: Interval) -> str:
    """The half width in percentage points after a plus-minus sign, or nothing for one seed."""
    return "" if value.half_width is None else f" ± {100 * value.half_width:.1f}"


def points(share: float) -> str:
    """A difference of shares in percentage points, without its sign.

    >>> points(0.0123), points(0.01)
    ('1.2 points', '1.0 points')
    """
    return f"{100 * abs(share):.1f} points"


def signed_points(share: float) -> str:
    """A difference of shares in percentage points, with its sign.

    >>> signed_points(0.0123), signed_points(0.0)
    ('+1.2', '0.0')
    """
    return _signed(100 * share, "+.1f") if round(100 * share, 1) else "0.0"


def count(value: float) -> str:
    """A whole number with thousands separators.

    >>> count(12345.6)
    '12,346'
    """
    return f"{round(value):,}"


def about(value: float) -> str:
    """A number of queries rounded to two digits, for sentences.

    >>> about(1243), about(87), about(99950)
    ('1,200', '87', '100,000')
    """
    return count(rounded(value, round))


def at_most_two_digits(value: float) -> int:
    """A number rounded down to two digits, for limits.

    >>> at_most_two_digits(1290)
    1200
    """
    return int(rounded(value * (1 + 1e-9), math.floor))  # what is whole but for rounding stays


def rounded(value: float, how: Callable[[float], int] = round) -> float:
    """Round to two significant digits with ``round`` or ``math.floor``; small numbers become whole."""
    if value < 100:
        return float(how(value))
    unit = 10 ** (int(math.log10(value)) - 1)
    return float(how(value / unit) * unit)


def money(value: float) -> str:
    """A sum in the currency of the price; small sums keep two significant digits.

    >>> money(1234.5), money(0.0012), money(0.0)
    ('1,234.50', '0.0012', '0.00')
    """
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.2f}"


def ratio(value: float) -> str:
    """A ratio with a multiplication sign.

    >>> ratio(1.234), ratio(12.6)
    ('1.2×', '13×')
    """
    return f"{value:.1f}×" if value < 10 else f"{value:,.0f}×"


def listed(names: list[str]) -> str:
    """Names as a phrase.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _signed(value: float, form: str) -> str:
    text = f"{value:{form}}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", MINUS)
