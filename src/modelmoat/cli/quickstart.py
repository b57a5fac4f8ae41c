"""``modelmoat quickstart``: the whole story in two minutes, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Train a small model on embedded data, steal it, defend it, and write a report.

It takes under two minutes on two cores and needs no network.

Example:

  modelmoat quickstart --out runs/quickstart
"""

DATA = "digits,pool=0.4"
POOL = "digits,pool=0.4,split=pool"
ARCH = "small_cnn"
BUDGETS = (10, 50, 300)
SEEDS = (0, 1, 2)
ATTACKS = ("knockoff", "knockoff:targets=label")
DEFENSES = ("none", "top_k:k=1", "rounding:decimals=1", "reverse_sigmoid:beta=0.6")


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the model, the records and the report.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """Train, steal, defend and report, on embedded data."""
    from modelmoat.assessment import AssessmentSpec
    from modelmoat.attacks import parse_attack
    from modelmoat.cli.assess import run_and_report
    from modelmoat.cli.train import train_and_tell
    from modelmoat.defenses import parse_defense
    from modelmoat.training import FitSettings

    victim = out / "victim"
    typer.echo(f"1. Train a victim ({ARCH}) on handwritten digits.")
    train_and_tell("standard", DATA, ARCH, victim, FitSettings(epochs=15, lr=0.05))
    typer.echo(f"2. Steal it with digits that it was not trained on, {len(DEFENSES) - 1} defenses, {len(SEEDS)} seeds.")
    spec = AssessmentSpec(
        victim=str(victim),
        pool=POOL,
        attacks=tuple(map(parse_attack, ATTACKS)),
        defenses=tuple(map(parse_defense, DEFENSES)),
        budgets=BUDGETS,
        seeds=SEEDS,
        clone_fit=FitSettings(epochs=30, min_steps=120, lr=0.05),
    )
    run_and_report(spec, out)


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("quickstart", help=HELP)(quickstart)
