"""The command line."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``modelmoat`` command."""
    from modelmoat.cli.app import run
    from modelmoat.core.memory import keep_freed_memory

    keep_freed_memory()
    run()
