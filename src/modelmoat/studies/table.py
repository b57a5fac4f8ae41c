"""All records of a study as one Arrow table, whose columns are the same for every study."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from modelmoat.core.errors import RunError
from modelmoat.core.files import atomic_path
from modelmoat.core.records import PARQUET_FILE, Record

if TYPE_CHECKING:
    from modelmoat.studies.units import AssessUnit

STUDY_COLUMNS = {"study": str, "victim_name": str, "victim_seed": int, "defense_name": str}
"""What a study adds to each record: its name, and the names that its file gives to victim and defense."""
_SAME = ("cell", "victim_name", "victim_seed", "defense_name")  # two rows that share these are one


@dataclass(frozen=True)
class Row:
    """A record and what the study calls its victim and defense."""

    study: str
    victim_name: str
    victim_seed: int
    defense_name: str
    record: Record

    @classmethod
    def of(cls, unit: AssessUnit, record: Record) -> Row:
        """The row of a record that a unit made."""
        return cls(unit.study.study, unit.victim.name, unit.victim.seed, unit.defense.name, record)

    def flat(self) -> dict[str, Any]:
        """All columns by name."""
        own = {name: getattr(self, name) for name in STUDY_COLUMNS}
        values = self.record.model_dump()
        maps = {name: list(value.items()) for name, value in values.items() if isinstance(value, dict)}
        return {**own, **values, **maps}


def schema() -> pa.Schema:
    """The columns: those of a study, then those of a record."""
    hints = typing.get_type_hints(Record)
    own = [pa.field(name, _arrow(hint)) for name, hint in STUDY_COLUMNS.items()]
    return pa.schema([*own, *(pa.field(name, _arrow(hints[name])) for name in Record.model_fields)])


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table with the columns of every study."""
    return pa.Table.from_pylist([row.flat() for row in rows], schema=schema())


def write_table(directory: Path, rows: Iterable[Row]) -> pa.Table:
    """Write ``records.parquet`` and return what is in it."""
    table = to_table(rows)
    with atomic_path(directory / PARQUET_FILE) as temporary:
        pq.write_table(table, temporary)
    return table


def read_tables(directories: Sequence[Path]) -> pa.Table:
    """The records of several folders of ``bench`` or ``assess``, or Parquet files, as one table, each cell once.

    Columns that a folder of ``assess`` does not have are empty. The first folder that has a cell gives its row. Of a study
    or an assessment that still runs for the first time, the records so far are read, with a warning.

    Raises:
        RunError: a folder has neither a table nor records, or some that cannot be read.
    """
    tables = [_read(directory) for directory in directories]
    merged = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    first: dict[tuple[object, ...], int] = {}
    for number, cell in enumerate(zip(*(merged[name].to_pylist() for name in _SAME), strict=True)):
        first.setdefault(cell, number)
    return merged.take(pa.array(list(first.values()), pa.int64()))


def _read(directory: Path) -> pa.Table:
    path = directory if directory.is_file() else directory / PARQUET_FILE
    try:
        table = pq.read_table(path) if path.exists() else _so_far(directory)
        wanted = schema()
        columns = [
            table[field.name].cast(field.type) if _castable(table, field) else _converted(table, field)
            for field in wanted
        ]
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: {error}; fix: run the command that wrote it again") from error
    return pa.Table.from_arrays(columns, schema=wanted)


def _so_far(directory: Path) -> pa.Table:
    from modelmoat.studies.unfinished import unfinished_table  # it needs this module

    table = unfinished_table(directory)
    if table is None:
        raise RunError(f"{directory} has no {PARQUET_FILE}; fix: name a folder that modelmoat bench or assess wrote")
    return table


def _castable(table: pa.Table, field: pa.Field) -> bool:
    return field.name in table.column_names and not pa.types.is_nested(field.type)


def _converted(table: pa.Table, field: pa.Field) -> pa.Array:
    """A column that is missing or nested, by way of Python values; structs of an assessment become maps."""
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    values = table[field.name].to_pylist()
    if pa.types.is_map(field.type):
        values = [list(value.items()) if isinstance(value, dict) else value for value in values]
    return pa.array(values, field.type)


def _arrow(hint: Any) -> pa.DataType:
    """The Arrow type of an annotation."""
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint in plain:
        return plain[hint]
    if origin is Literal:
        return plain[type(inside[0])]
    if origin in (types.UnionType, Union):
        return _arrow(next(choice for choice in inside if choice is not type(None)))
    if origin is list:
        return pa.list_(_arrow(inside[0]))
    if origin is dict:
        return pa.map_(_arrow(inside[0]), _arrow(inside[1]))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        hints = typing.get_type_hints(hint)
        return pa.struct([pa.field(name, _arrow(hints[name])) for name in hint.model_fields])
    raise TypeError(f"no column type for {hint}")
