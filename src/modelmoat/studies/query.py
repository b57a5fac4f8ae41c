"""SQL over records, by DuckDB, which sees the table ``records`` and nothing else of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from modelmoat.core.errors import OptionError

TABLE = "records"


@dataclass(frozen=True)
class Answer:
    """Columns, their DuckDB types, and rows of a query."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def run_sql(table: pa.Table, sql: str) -> Answer:
    """Run one query over a table of records.

    Raises:
        OptionError: it is no SQL or not one query, names what is not there, or DuckDB is not installed.
    """
    duckdb = _duckdb()
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        connection.register(TABLE, table)
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            found = connection.sql(_one_query(connection.extract_statements(sql)))
            return Answer(tuple(found.columns), tuple(map(str, found.types)), tuple(found.fetchall()))
        except duckdb.Error as error:
            raise OptionError(f"SQL: {' '.join(str(error).split())}") from error


def _one_query(statements: Sequence[Any]) -> Any:
    """The only statement, if it asks for rows; `MULTI` is a pivot."""
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1 or kinds[0] not in ("SELECT", "MULTI", "EXPLAIN"):
        given = " and ".join(kinds) or "nothing"
        raise OptionError(f"SQL: {given} given, expected one query; fix: one SELECT")
    return statements[0]


def _duckdb() -> Any:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise OptionError(
            "SQL over records needs the package duckdb, which is not installed; fix: pip install 'modelmoat[studies]'"
        ) from error
    return duckdb
