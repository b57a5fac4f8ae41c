"""What a run found, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from modelmoat.core.records import Record
from modelmoat.report import actions, baseline_sentences, caveats, gap_sentences, gaps, headline, summarize, verdict


def print_verdict(
    records: Sequence[Record], target_fidelity: float, price_per_1000: float, page: Path, *, to_stderr: bool = False
) -> None:
    """Print the headline, the verdict, what to do next, and last the path of the report."""
    console = Console(stderr=to_stderr, highlight=False, markup=False, soft_wrap=True)
    summary = summarize(records, target_fidelity)
    console.print()
    console.print(headline(summary), style="bold")
    told = [*verdict(summary, price_per_1000), *caveats(summary)]
    for sentence in [*told, *baseline_sentences(records), *gap_sentences(gaps(records))]:
        console.print(f"  {sentence}")
    console.print("Next:")
    for action in actions(summary):
        console.print(f"  - {action}")
    console.print()
    console.print(f"Report: {page}")
