"""Commands, exit codes and how errors look. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from modelmoat import __version__
from modelmoat.cli import assess, listing, quickstart, report, train
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
assess.add_to(app)
report.add_to(app)
listing.add_to(app)


def run(arguments: list[str] | None = None) -> None:
    """Run a command and turn every error into one message and one exit code."""
    errors = Console(stderr=True)
    warnings.showwarning = lambda message, *_: errors.print(f"[yellow]Warning:[/] {message}", highlight=False)
    try:
        app(arguments)
    except UsageError as error:
        _say(errors, error)
        sys.exit(EXIT_MISUSE)
    except ModelmoatError as error:
        _say(errors, error)
        sys.exit(EXIT_CRASH)
    except KeyboardInterrupt:
        errors.print("[yellow]Interrupted.[/] Nothing that was finished is lost: run the same command again to go on.")
        sys.exit(EXIT_INTERRUPTED)


def _say(console: Console, error: Exception) -> None:
    console.print("[bold red]Error:[/]", str(error), highlight=False, markup=False, soft_wrap=True)
