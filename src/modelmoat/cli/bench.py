"""``modelmoat bench``: run a study."""

from __future__ import annotations

import os
import sys
import time
import warnings
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmoat.core.errors import require

if TYPE_CHECKING:
    from modelmoat.cli.progress import Bars
    from modelmoat.studies import Cost, Engine, StudyResult
    from modelmoat.studies.engine import Outcome, Progress
    from modelmoat.studies.units import Unit

EXIT_FAILED = 1

HELP = """Run a study: victims x defenses x attackers x budgets x seeds, and verdicts on claims.

A study is a YAML file; see the folder studies of the project. It is checked before anything runs. Stop it at any time and run
the same command again: what is done stays, and what is missing or failed is run.

In the folder: records.parquet with all records (ask it with modelmoat query), claims.json, study.html, and failures.jsonl
where something failed.

Examples:

  modelmoat bench studies/smoke.yaml --out runs/smoke

  modelmoat bench studies/mad.yaml --out runs/mad --dry-run

  modelmoat bench studies/mad.yaml --out /shared/mad --engine ray --address auto
"""


class EngineName(StrEnum):
    """Where units run."""

    local = "local"
    ray = "ray"


def bench(
    study: Annotated[Path, typer.Argument(help="The study, a YAML file.")],
    out: Annotated[
        str,
        typer.Option(
            help="Folder for victims, records and the page; with --engine ray a URL too, such as s3://bucket/study."
        ),
    ],
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes at a time, each with one thread; one for each core of the machine or cluster if left out."
        ),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="Processes of this machine, or tasks of Ray, on all machines of a cluster.")
    ] = EngineName.local,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="With --engine ray: a cluster that runs; Ray is started on this machine if left out.",
        ),
    ] = None,
    gpu_share: Annotated[
        float | None,
        typer.Option(help="With --engine ray and device: cuda: share of a GPU for each process; 1 if left out."),
    ] = None,
    victims: Annotated[
        Path | None,
        typer.Option(
            help="Folder that studies share: a victim trained there with the same settings is taken, others join."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the study, say what it takes, and stop.")] = False,
) -> None:
    """Run a study."""
    chosen = _engine(engine, out, workers, address, gpu_share)
    from modelmoat.cli.progress import bars
    from modelmoat.studies import VictimShelf, estimate, load_study, mirrored, run_study

    found, document = load_study(study)
    if dry_run:
        _tell_cost(estimate(found, document), chosen.workers or 1, found.device)
        return
    place = mirrored(out, found) if _is_url(out) else nullcontext(Path(out))
    with bars() as shown, place as folder:
        command = ["modelmoat", *sys.argv[1:]]
        shelf = VictimShelf(victims) if victims else None
        result = run_study(found, document, folder, engine=chosen, command=command, watch=_Shown(shown), shelf=shelf)
    _tell(result, out)
    if result.failed:
        raise typer.Exit(EXIT_FAILED)


def _is_url(out: str) -> bool:
    return "://" in out


def _engine(name: EngineName, out: str, workers: int | None, address: str | None, gpu_share: float | None) -> Engine:
    require(workers is None or workers >= 1, f"--workers {workers}: expected at least 1")
    if name is EngineName.ray:
        from modelmoat.studies import RayEngine

        share = 1.0 if gpu_share is None else gpu_share
        return RayEngine(address, workers, share, url=out if _is_url(out) else None)
    require(not _is_url(out), f"--out {out}: the engine 'local' writes to folders; fix: --engine ray, or a folder")
    for option, value in {"--address": address, "--gpu-share": gpu_share}.items():
        require(value is None, f"{option} {value}: the engine 'local' has none; fix: --engine ray")
    from modelmoat.studies import LocalEngine

    return LocalEngine(workers or os.cpu_count() or 1)


def _tell_cost(cost: Cost, workers: int, device: str) -> None:
    typer.echo(
        f"{_many(cost.victims, 'victim')} to train, {_many(cost.runs, 'run')}, {_many(cost.cells, 'record')}, at most "
        f"{cost.queries:,} queries"
    )
    if cost.seconds is None:
        typer.echo(f"how long that takes is not known here: the study's device is {device}, which this machine lacks")
        return
    typer.echo(
        f"at least {_duration(cost.seconds / workers)} with {_many(workers, 'worker')}, if nothing is done yet: one plain training "
        "for each victim and each clone; costly recipes, attacks and defenses come on top"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{f'{hours} h ' if hours else ''}{minutes} min"


def _tell(result: StudyResult, out: str) -> None:
    typer.echo(f"{out}: {_many(result.records, 'record')}; {_many(result.ran, 'unit')} ran now")
    for judgment in result.judgments:
        typer.echo(f"  {judgment.verdict}: {judgment.text}{f' ({judgment.error})' if judgment.error else ''}")
    if result.failed:
        blocked = f", and {result.blocked:,} could not start" if result.blocked else ""
        typer.echo(f"{_many(result.failed, 'unit')} failed{blocked}; see {out.rstrip('/')}/failures.jsonl", err=True)
    typer.echo(f"Page: {result.page}")


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


class _Shown:
    """Shows a study on progress bars: one for all units, one for each worker; in a plain log, a line for each unit."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._warned: set[str] = set()
        self._begun: dict[Path, float] = {}
        self._done = self._total = 0

    def units(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._bars.show("units", done, total)

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        self._begun.setdefault(unit.folder, time.monotonic())
        self._bars.show(f"worker {lane + 1}", progress.done, progress.total, f"{unit}: {progress.stage}")

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        self._bars.remove(f"worker {lane + 1}")
        for words in outcome.warnings:
            if words not in self._warned:
                warnings.warn(words, stacklevel=2)
                self._warned.add(words)
        if outcome.error:
            typer.echo(f"failed: {unit}: {outcome.error}", err=True)
        elif not self._bars.visible:
            took = _duration(time.monotonic() - self._begun.pop(unit.folder))
            typer.echo(f"{self._done + 1:,} of {self._total:,}: {unit}, {took}", err=True)


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("bench", help=HELP)(bench)
