"""``modelmoat report``: write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Write the report of a run folder again, from its records.

Example:

  modelmoat report runs/quickstart
"""


def report(directory: Annotated[Path, typer.Argument(help="Folder that assess or quickstart wrote.")]) -> None:
    """Write the report of a run folder again."""
    from modelmoat.report import write_report

    typer.echo(str(write_report(directory)))


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report", help=HELP)(report)
