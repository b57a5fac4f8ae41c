"""From the records of a run to one page that a person can read: the verdict, the curves, the price, the evidence.

`summarize` gives the verdict as numbers and `verdict` as sentences, both without drawing anything; `write_report`
writes the page.
"""

from __future__ import annotations

from pathlib import Path

from modelmoat.report.advice import actions, headline, verdict
from modelmoat.report.baseline import baseline_sentences
from modelmoat.report.caution import caveats
from modelmoat.report.gap import Gap, gap_sentences, gaps
from modelmoat.report.summary import Best, DefenseResult, Reach, Summary, summarize

REPORT_FILE = "report.html"

__all__ = [
    "REPORT_FILE",
    "Best",
    "DefenseResult",
    "Gap",
    "Reach",
    "Summary",
    "actions",
    "baseline_sentences",
    "caveats",
    "gap_sentences",
    "gaps",
    "headline",
    "summarize",
    "verdict",
    "write_report",
]


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path.

    The page is one file that loads nothing from anywhere; the same run gives the same bytes. Raises `RunError` where
    the directory has no records or no ``run.json``.
    """
    from modelmoat.core.files import write_text
    from modelmoat.report.page import render  # templates and drawing are loaded only here

    path = directory / REPORT_FILE
    write_text(path, render(directory))
    return path
