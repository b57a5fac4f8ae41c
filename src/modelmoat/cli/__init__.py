"""The command line."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``modelmoat`` command."""
    from modelmoat.cli.app import run

    run()
