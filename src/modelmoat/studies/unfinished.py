"""Records of a folder that has no table yet."""

from __future__ import annotations

import warnings
from pathlib import Path

import pyarrow as pa

from modelmoat.core.records import RECORDS_FILE, read_records
from modelmoat.studies.folder import StudyFolder
from modelmoat.studies.table import to_table
from modelmoat.studies.units import plan_units


def unfinished_table(directory: Path) -> pa.Table | None:
    """What a study or an assessment that still runs has so far, with a warning; None where neither was begun.

    The folder stays as it is.
    """
    folder = StudyFolder(directory, repair=False)
    if study := folder.study():
        units = plan_units(study)[1]
        table = to_table(folder.rows(units))
        begun = sum((directory / unit.folder).is_dir() for unit in units)
        _warn(directory, table, f", of {begun:,} of {len(units):,} runs")
        return table
    if (directory / RECORDS_FILE).is_file():
        rows = [record.model_dump() for record in read_records(directory, repair=False)]
        table = pa.Table.from_pylist(rows)
        _warn(directory, table, "")
        return table
    return None


def _warn(directory: Path, table: pa.Table, of: str) -> None:
    warnings.warn(f"{directory} has no table yet; records so far: {table.num_rows:,}{of}", stacklevel=4)
