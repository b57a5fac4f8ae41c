"""Rows of studies that nobody measured."""

from __future__ import annotations

from typing import Any

from modelmoat.core.records import Record, pack_bits
from modelmoat.studies.table import Row

_FILLED = {str: "x", int: 3, float: 0.5, bool: True}


def record(cell: str, **changes: Any) -> Record:
    """A record with something in every required column."""
    required = {name: field for name, field in Record.model_fields.items() if field.is_required()}
    values = {name: _FILLED[field.annotation] for name, field in required.items()}
    return Record(**(values | {"cell": cell, "agreement": pack_bits([True, False, True])} | changes))


def row(cell: str, *, study: str = "s", defense: str = "none", victim_seed: int = 0, **changes: Any) -> Row:
    """Its row in a study."""
    return Row(study, "plain", victim_seed, defense, record(cell, defense=defense, **changes))
