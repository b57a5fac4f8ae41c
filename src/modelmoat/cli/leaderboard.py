"""``modelmoat leaderboard``: a small site from records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Write a site that ranks defenses by the best clone that any of their attackers made.

Reads folders of bench or assess and Parquet files of records. There is one ranking for each data set, victim, kind of
answers and budget, and one page for each defense and attack. Open index.html; nothing has to be served.

Examples:

  modelmoat leaderboard runs/smoke

  modelmoat leaderboard runs/mad runs/dcp results/matrix/records.parquet --out runs/leaderboard
"""


def leaderboard(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that bench or assess wrote, or Parquet files.", metavar="DIR...")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the site.")] = Path("leaderboard"),
) -> None:
    """Write the leaderboard."""
    from modelmoat.leaderboard import write_leaderboard

    typer.echo(str(write_leaderboard(folders, out)))


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("leaderboard", help=HELP)(leaderboard)
