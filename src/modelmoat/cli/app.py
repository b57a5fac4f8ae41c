"""Commands, exit codes and how errors look. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from modelmoat import __version__
from modelmoat.cli import (
    assess,
    bench,
    export,
    latency,
    leaderboard,
    listing,
    protect,
    query,
    quickstart,
    report,
    train,
)
from modelmoat.core.errors import ModelmoatError, UsageError

EXIT_CRASH = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="modelmoat",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"modelmoat {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find out how stealable a model is, and which defenses slow a thief down.

    New here? Run [bold]modelmoat quickstart[/bold]: two minutes, no downloads, a report at the end.
    """


quickstart.add_to(app)
train.add_to(app)
protect.add_to(app)
latency.add_to(app)
export.add_to(app)
assess.add_to(app)
report.add_to(app)
bench.add_to(app)
query.add_to(app)
leaderboard.add_to(app)
listing.add_to(app)


def run(arguments: list[str] | None = None) -> None:
    """Run a command and turn every error into one message and one exit code."""
    errors = Console(stderr=True)
    warnings.showwarning = lambda message, *_: _say(errors, "Warning:", "yellow", message)
    try:
        app(arguments)
    except UsageError as error:
        _say(errors, "Error:", "bold red", error)
        sys.exit(EXIT_MISUSE)
    except ModelmoatError as error:
        _say(errors, "Error:", "bold red", error)
        sys.exit(EXIT_CRASH)
    except OSError as error:
        _say(
            errors,
            "Error:",
            "bold red",
            f"{error}; fix: check that the path is right and yours, and that the disk has room",
        )
        sys.exit(EXIT_MISUSE)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:  # how typer ends after Ctrl-C
            words = "Nothing that was finished is lost: run the same command again to go on."
            _say(errors, "Interrupted.", "yellow", words)
        raise


def _say(console: Console, label: str, style: str, words: object) -> None:
    """One line, whatever is in it: no markup is read, nothing is wrapped."""
    console.print(Text(f"{label} ", style=style).append(str(words), style="not bold default"), soft_wrap=True)
