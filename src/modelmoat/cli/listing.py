"""``modelmoat list``: what there is."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmoat.core.errors import unknown

if TYPE_CHECKING:
    from modelmoat.core.registry import Registry

HELP = """List attacks, recoveries, suites, defenses, recipes, architectures and data.

Examples:

  modelmoat list

  modelmoat list defenses

  modelmoat list attacks --json
"""

FAMILIES = ("attacks", "recoveries", "suites", "defenses", "recipes", "archs", "data")


def listing(
    family: Annotated[str | None, typer.Argument(help=f"One of {', '.join(FAMILIES)}; all of them by default.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List attacks, recoveries, suites, defenses, recipes, architectures and data."""
    if family is not None and family not in FAMILIES:
        raise unknown("list", family, FAMILIES)
    found = {name: _ROWS[name]() for name in ([family] if family else FAMILIES)}
    if json_:
        typer.echo(json.dumps(found[family] if family else found, indent=2))
        return
    for name, rows in found.items():
        _print_block(name, rows)


def _methods(registry: Registry[Any], *extra: str) -> list[dict[str, Any]]:
    rows = []
    for cls in registry:
        facts = {key: _plain(getattr(cls, key)) for key in extra}
        defaults = {field.name: _plain(field.default) for field in fields(cls)}
        rows.append({"name": cls.name, "summary": cls.summary(), "parameters": defaults, **facts, "paper": cls.paper})
    return rows


def _attacks() -> list[dict[str, Any]]:
    from modelmoat.attacks import ATTACKS

    return _methods(ATTACKS, "outputs", "knows")


def _recoveries() -> list[dict[str, Any]]:
    from modelmoat.attacks import RECOVERIES

    return _methods(RECOVERIES, "outputs", "knows")


def _suites() -> list[dict[str, Any]]:
    from modelmoat.assessment.suites import SUITES

    return [
        {"name": suite.name, "summary": f"{suite}: {len(suite.attacks)} attackers.", "attacks": list(suite.attacks)}
        for suite in SUITES.values()
    ]


def _defenses() -> list[dict[str, Any]]:
    from modelmoat.defenses import DEFENSES

    return _methods(DEFENSES, "keeps_top1", "deterministic", "stateful", "exportable")


def _recipes() -> list[dict[str, Any]]:
    from modelmoat.recipes import RECIPES

    return _methods(RECIPES)


def _archs() -> list[dict[str, Any]]:
    from modelmoat.models import arch_infos

    return [{"name": info.name, "summary": info.summary, "paper": info.paper} for info in arch_infos()]


def _data() -> list[dict[str, Any]]:
    from modelmoat.data import known_sources

    return [{"name": source.name, "summary": source.summary, "example": source.example} for source in known_sources()]


_ROWS = {
    "attacks": _attacks,
    "recoveries": _recoveries,
    "suites": _suites,
    "defenses": _defenses,
    "recipes": _recipes,
    "archs": _archs,
    "data": _data,
}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _print_block(name: str, rows: list[dict[str, Any]]) -> None:
    """One entry after the other, wrapped to the terminal, details under the summary."""
    width = min(shutil.get_terminal_size().columns, 110)
    indent = max(len(row["name"]) for row in rows) + 4
    typer.secho(name, bold=True)
    for row in rows:
        lines = [row["summary"], *_details(row)]
        head = f"  {row['name']}".ljust(indent)
        for line in lines:
            typer.echo(textwrap.fill(line, width, initial_indent=head, subsequent_indent=" " * indent))
            head = " " * indent
    typer.echo()


def _details(row: dict[str, Any]) -> list[str]:
    details = []
    if row.get("parameters"):
        details.append("parameters: " + ", ".join(f"{key}={value}" for key, value in row["parameters"].items()))
    if row.get("attacks"):
        details.append(" ".join(row["attacks"]))
    if row.get("example"):
        details.append(f"example: {row['example']}")
    if row.get("paper", "-") != "-":
        details.append(f"paper: {row['paper']}")
    return details


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("list", help=HELP)(listing)
