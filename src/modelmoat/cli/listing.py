"""``modelmoat list``: what there is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmoat.core.errors import unknown

if TYPE_CHECKING:
    from modelmoat.core.registry import Registry

HELP = """List attacks, defenses, recipes, architectures and data.

Examples:

  modelmoat list

  modelmoat list defenses

  modelmoat list attacks --json
"""

FAMILIES = ("attacks", "defenses", "recipes", "archs", "data")


def listing(
    family: Annotated[str | None, typer.Argument(help=f"One of {', '.join(FAMILIES)}; all of them by default.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List attacks, defenses, recipes, architectures and data."""
    if family is not None and family not in FAMILIES:
        raise unknown("list", family, FAMILIES)
    found = {name: _ROWS[name]() for name in ([family] if family else FAMILIES)}
    if json_:
        typer.echo(json.dumps(found[family] if family else found, indent=2))
        return
    for name, rows in found.items():
        _print_table(name, rows)


def _methods(registry: Registry[Any], *extra: str) -> list[dict[str, Any]]:
    rows = []
    for cls in registry:
        facts = {key: _plain(getattr(cls, key)) for key in extra}
        defaults = {field: _plain(value.default) for field, value in cls.__dataclass_fields__.items()}
        rows.append({"name": cls.name, "summary": cls.summary(), "parameters": defaults, **facts, "paper": cls.paper})
    return rows


def _attacks() -> list[dict[str, Any]]:
    from modelmoat.attacks import ATTACKS

    return _methods(ATTACKS, "outputs", "knows")


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


_ROWS = {"attacks": _attacks, "defenses": _defenses, "recipes": _recipes, "archs": _archs, "data": _data}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _print_table(name: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    last = "example" if name == "data" else "paper"
    table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "what it does", *(["parameters"] if "parameters" in rows[0] else []), last):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        cells = [row["name"], row["summary"]]
        if "parameters" in row:
            cells.append(", ".join(f"{key}={value}" for key, value in row["parameters"].items()))
        table.add_row(*cells, row[last])
    Console().print(table, "")


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("list", help=HELP)(listing)
