"""From the records of many runs to a small site: which defense leaves the least to the best of its attackers.

`write_leaderboard` reads folders and tables of records and writes the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelmoat.leaderboard.entries import Arena, Setting, arenas, read_rows
from modelmoat.leaderboard.naming import Entry, Plan
from modelmoat.leaderboard.ranking import BANDS, Board, Cell, Standing, rank

INDEX_FILE = "index.html"

__all__ = [
    "BANDS",
    "INDEX_FILE",
    "Arena",
    "Board",
    "Cell",
    "Entry",
    "Plan",
    "Setting",
    "Standing",
    "arenas",
    "rank",
    "read_rows",
    "write_leaderboard",
]


def write_leaderboard(sources: Sequence[Path], out: Path) -> Path:
    """Write the site into ``out`` and return the path of its first page.

    The pages open from disk and load nothing from anywhere; the same records give the same bytes. Raises `RunError` where
    a source has no records.
    """
    from modelmoat.core.files import write_text
    from modelmoat.leaderboard.site import pages  # templates are loaded only here

    boards = [rank(arena) for arena in arenas(read_rows(sources))]
    for name, text in pages(boards).items():
        write_text(out / name, text)
    return out / INDEX_FILE
