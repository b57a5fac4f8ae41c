"""Claims of papers, tested on the records of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from modelmoat.core.errors import OptionError
from modelmoat.core.files import write_text
from modelmoat.metrics.intervals import Interval, mean_interval
from modelmoat.studies.document import Document
from modelmoat.studies.expectation import Verdict
from modelmoat.studies.query import run_sql
from modelmoat.studies.study import Claim
from modelmoat.studies.table import to_table

CLAIMS_FILE = "claims.json"


class Judgment(BaseModel):
    """A claim and what was measured: mean, half width of the 95 % interval, and the values behind them."""

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

    @property
    def interval(self) -> Interval | None:
        """What was measured; None without values."""
        return None if self.mean is None else Interval(self.mean, self.half_width, len(self.values))


def check_claims(claims: Sequence[Claim], document: Document) -> None:
    """Run every measure on an empty table, so that a mistake in it shows before anything is trained.

    Raises:
        OptionError: a measure is no SQL, or names a column that records do not have.
    """
    empty = to_table([])
    for number, claim in enumerate(claims):
        try:
            _numbers(run_sql(empty, claim.measure).rows)
        except OptionError as error:
            raise document.error(("claims", number, "measure"), str(error)) from error


def judge(claims: Sequence[Claim], table: pa.Table) -> list[Judgment]:
    """Verdicts on claims; where records that a measure needs are missing, the claim is not tested."""
    return [_judged(claim, table) for claim in claims]


def write_claims(directory: Path, judgments: Sequence[Judgment]) -> None:
    """Write ``claims.json``."""
    rows = ",\n".join(judgment.model_dump_json(indent=2) for judgment in judgments)
    write_text(directory / CLAIMS_FILE, f"[{rows}]\n")


def _judged(claim: Claim, table: pa.Table) -> Judgment:
    values = _numbers(run_sql(table, claim.measure).rows)
    measured = mean_interval(values) if values else None
    return Judgment(
        **claim.model_dump(include={"text", "source", "published", "expect", "note"}),
        verdict=claim.expect.verdict(measured),
        values=tuple(values),
        mean=measured.mean if measured else None,
        half_width=measured.half_width if measured else None,
    )


def _numbers(rows: Sequence[tuple[Any, ...]]) -> list[float]:
    """The last column, without what is missing."""
    found = [row[-1] for row in rows if row[-1] is not None]
    try:
        numbers = [float(value) for value in found]
    except (TypeError, ValueError) as error:
        raise OptionError(f"the last column has {found[0]!r}, expected numbers, one for each seed") from error
    return [number for number in numbers if not math.isnan(number)]
