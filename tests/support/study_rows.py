"""Rows of studies that nobody measured."""

from __future__ import annotations

from typing import Any

from modelmoat.studies.table import Row
from records import make_record


def row(
    cell: str, *, study: str = "s", victim: str = "plain", defense: str = "none", victim_seed: int = 0, **changes: Any
) -> Row:
    """Its row in a study."""
    return Row(study, victim, victim_seed, defense, make_record(cell=cell, defense=defense, **changes))
