"""Claims of papers, tested on the records of a study."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from modelmoat.core.errors import OptionError, require
from modelmoat.core.files import write_text
from modelmoat.metrics.intervals import Interval, mean_interval
from modelmoat.studies.document import Document
from modelmoat.studies.expectation import Verdict
from modelmoat.studies.query import Answer, run_sql
from modelmoat.studies.study import Claim
from modelmoat.studies.table import to_table

CLAIMS_FILE = "claims.json"
_NUMBERS = re.compile(r'U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(.*\)|BOOLEAN|"?NULL"?')


class Judgment(BaseModel):
    """A claim and what was measured: mean, half width of the 95 % interval, and the values behind them.

    ``error`` says why nothing could be measured on the records that there are.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    source: str
    published: str
    expect: str
    note: str
    verdict: Verdict
    values: tuple[float, ...]
    mean: float | None
    half_width: float | None
    error: str = ""

    @property
    def interval(self) -> Interval | None:
        """What was measured; None without values."""
        return None if self.mean is None else Interval(self.mean, self.half_width, len(self.values))


def check_claims(claims: Sequence[Claim], document: Document) -> None:
    """Run every measure on an empty table, so that a mistake in it shows before anything is trained.

    Raises:
        OptionError: a measure is not one query, names a column that records do not have, or its last column has no numbers.
    """
    empty = to_table([])
    for number, claim in enumerate(claims):
        try:
            _numbers(run_sql(empty, claim.measure))
        except OptionError as error:
            raise document.error(("claims", number, "measure"), str(error)) from error


def judge(claims: Sequence[Claim], table: pa.Table) -> list[Judgment]:
    """Verdicts on claims; one whose records are missing, or whose measure fails on them, is not tested."""
    return [_judged(claim, table) for claim in claims]


def write_claims(directory: Path, judgments: Sequence[Judgment]) -> None:
    """Write ``claims.json``."""
    rows = ",\n".join(judgment.model_dump_json(indent=2) for judgment in judgments)
    write_text(directory / CLAIMS_FILE, f"[{rows}]\n")


def _judged(claim: Claim, table: pa.Table) -> Judgment:
    values, error = _measured(claim, table)
    measured = mean_interval(values) if values else None
    return Judgment(
        **claim.model_dump(include={"text", "source", "published", "expect", "note"}),
        verdict=claim.expect.verdict(measured),
        values=tuple(values),
        mean=measured.mean if measured else None,
        half_width=measured.half_width if measured else None,
        error=error,
    )


def _measured(claim: Claim, table: pa.Table) -> tuple[list[float], str]:
    """The values of a claim, or none and why."""
    try:
        return _numbers(run_sql(table, claim.measure)), ""
    except OptionError as error:
        return [], str(error)


def _numbers(answer: Answer) -> list[float]:
    """The last column, without what is missing."""
    name, kind = answer.columns[-1], answer.types[-1]
    require(
        _NUMBERS.fullmatch(kind) is not None,
        f"the last column, {name}, is of type {kind}; expected numbers, one for each seed; fix: put the value last",
    )
    numbers = [float(row[-1]) for row in answer.rows if row[-1] is not None]
    require(
        not any(map(math.isinf, numbers)),
        f"the last column, {name}, has an infinite value; fix: NULL where it has none",
    )
    return [number for number in numbers if not math.isnan(number)]
