"""``modelmoat query``: SQL over records."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmoat.core.errors import require

if TYPE_CHECKING:
    from modelmoat.studies import Answer

HELP = """Ask the records of studies and assessments by SQL, over the table records.

Several folders are read as one table; rows with the same cell, victim_name, victim_seed and defense_name count once. Columns:
study, those three names, and those of every record, such as cell, defense, attack, budget, seed, clone_accuracy, fidelity and
mean_l1. A study that still runs gives the records so far.

Examples:

  modelmoat query runs/smoke "SELECT defense_name, attack, avg(clone_accuracy) FROM records GROUP BY ALL ORDER BY ALL"

  modelmoat query runs/mad runs/dcp "SELECT * FROM records" --csv
"""


def query(
    folders: Annotated[list[Path], typer.Argument(help="Folders that bench or assess wrote.", metavar="DIR...")],
    sql: Annotated[str, typer.Argument(help="One query.", metavar="SQL")],
    csv_: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Ask records by SQL."""
    require(not (csv_ and json_), "--csv and --json: expected one of them")
    from modelmoat.studies.query import run_sql
    from modelmoat.studies.table import read_tables

    answer = run_sql(read_tables(folders), sql)
    (_print_csv if csv_ else _print_json if json_ else _print_table)(answer)


def _print_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)


def _print_json(answer: Answer) -> None:
    for row in answer.rows:
        typer.echo(json.dumps(dict(zip(answer.columns, row, strict=True)), default=str))


def _print_table(answer: Answer) -> None:
    """Columns side by side, numbers to the right."""
    texts = [[_written(value) for value in row] for row in answer.rows]
    numeric = [any(isinstance(value, (int, float)) for value in column) for column in _columns(answer)]
    widths = [max(map(len, column)) for column in zip(answer.columns, *texts, strict=True)]
    for line in [list(answer.columns), ["-" * width for width in widths], *texts]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        typer.echo("  ".join(cells).rstrip())


def _columns(answer: Answer) -> list[tuple[Any, ...]]:
    return [tuple(row[number] for row in answer.rows) for number in range(len(answer.columns))]


def _written(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("query", help=HELP)(query)
