"""The page itself: gathers what the template shows and fills it in."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modelmoat.core.errors import RunError
from modelmoat.core.records import RECORDS_FILE, Record, read_records
from modelmoat.core.runs import RUN_FILE, RunInfo, read_run
from modelmoat.report import advice, caution, wording
from modelmoat.report.baseline import baseline_sentences
from modelmoat.report.charts import Dot, curve_chart, tradeoff_chart
from modelmoat.report.curves import Point, aggregate, curves, one_victim, thefts
from modelmoat.report.gap import gaps
from modelmoat.report.series import Series, assign
from modelmoat.report.standards import SOURCE, controls
from modelmoat.report.summary import Summary, summarize_points
from modelmoat.report.tables import columns, defense_rows, gap_rows, prices, rows
from modelmoat.report.templating import page_environment

_FILES = {
    "records.jsonl": "one line per attack, budget, defense and seed, as it was measured",
    "records.parquet": "the same rows as one table",
    "run.json": "the commands, the settings, versions, machine and hashes",
    "report.html": "this page",
}


def render(directory: Path) -> str:
    """The page of a run directory as text; raises `RunError` without records or without ``run.json``."""
    info, records = _read(directory)
    points = aggregate(records)
    chosen, _ = one_victim(thefts(points))
    summary = summarize_points(points, info.target_fidelity)
    looks = assign((point.defense_label, point.undefended) for point in points)
    shown = {name: look for name, look in looks.items() if name in {point.defense_label for point in chosen}}
    environment = page_environment("modelmoat.report")
    environment.filters["breakable"] = breakable
    script = _package_text("table.js")
    return environment.get_template("report.html.j2").render(
        style=Markup(_package_text("style.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=script_hash(script),
        summary=summary,
        info=info,
        words=wording,
        looks=looks,
        shown=shown,
        **_verdict(summary, info),
        caveats=[*caution.caveats(summary), *baseline_sentences(records)],
        **_drawings(chosen, shown, summary),
        columns=columns(points),
        rows=rows(points),
        defense_rows=defense_rows(summary),
        gap_rows=gap_rows(gaps(records)),
        attackers=_attackers(points),
        prices=prices(summary, chosen, info.price_per_1000),
        controls=controls(summary, points),
        standard=SOURCE,
        limits=caution.limits(summary),
        **_repeat(info, records, directory),
    )


def _read(directory: Path) -> tuple[RunInfo, list[Record]]:
    info = read_run(directory)
    if info is None:
        raise RunError(
            f"{directory} has no {RUN_FILE}, so nobody could repeat what a report shows; "
            "fix: name a folder that modelmoat assess wrote, or run modelmoat assess with that folder again"
        )
    records = read_records(directory, repair=False)  # it may still be written
    if not records:
        raise RunError(
            f"{directory} has no records in {RECORDS_FILE}, so there is nothing to report; "
            "fix: run modelmoat assess with that folder, it goes on where it stopped"
        )
    return info, records


def _verdict(summary: Summary, info: RunInfo) -> dict[str, Any]:
    return {
        "headline": advice.headline(summary),
        "verdict": advice.verdict(summary, info.price_per_1000),
        "actions": advice.actions(summary),
        "reach": advice.reach_phrase,
    }


def _drawings(points: Sequence[Point], looks: dict[str, Series], summary: Summary) -> dict[str, Any]:
    lines = curves(points)
    dots = _dots(points, summary)
    return {
        "curve_chart": curve_chart(lines, looks, summary),
        "tradeoff_chart": tradeoff_chart(dots, looks) if len(dots) > 1 else None,
    }


def _dots(points: Sequence[Point], summary: Summary) -> list[Dot]:
    """The worst case of the undefended victim, then of each defense."""
    plain = [point for point in points if point.undefended]
    dots = []
    if plain:
        worst = max(plain, key=lambda point: point.fidelity.mean)
        accuracy = worst.metrics["victim_accuracy"].mean
        dots.append(Dot(worst.defense_label, worst.metrics["clone_accuracy"], accuracy, worst.metrics["mean_l1"].mean))
    return dots + [
        Dot(result.label, result.clone_accuracy, result.defended_accuracy, result.mean_l1)
        for result in summary.defenses
    ]


def _attackers(points: Sequence[Point]) -> list[dict[str, str]]:
    """What each attack was given; one line per different knowledge."""
    found: dict[tuple[str, ...], list[str]] = {}
    for point in points:
        row = point.record
        key = (
            row.attack,
            row.attacker_knows,
            f"{row.pool} ({wording.count(row.pool_size)} inputs)",
            row.clone_arch,
            row.output_kind,
        )
        found.setdefault(key, []).append(point.defense_label)
    names = ("attack", "knows", "pool", "clone", "answers")
    return [
        {**dict(zip(names, key, strict=True)), "against": wording.listed(list(dict.fromkeys(labels)))}
        for key, labels in found.items()
    ]


def _repeat(info: RunInfo, records: Sequence[Record], directory: Path) -> dict[str, Any]:
    seeds = sorted({record.seed for record in records})
    hashes = {**info.hashes, "settings": info.spec_digest}
    present = {path.name for path in directory.iterdir() if not path.name.startswith(".")} | {"report.html"}
    return {
        "commands": [shlex.join(command) for command in info.commands],
        "settings": {key: _shown(value) for key, value in info.spec.items()},
        "hashes": hashes,
        "seeds": ", ".join(map(str, seeds)),
        "devices": ", ".join(sorted({f"{record.device}, {record.precision}" for record in records})),
        "created": f"{info.created[:16].replace('T', ' ')} UTC",
        "count": len(records),
        "files": {name: _FILES.get(name, "") for name in sorted(present)},
        "victims": sorted({(r.victim, r.victim_arch, r.victim_recipe, r.data, r.test_size) for r in records}),
    }


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(inner)}" for key, inner in value.items())
    return "none" if value is None else str(value)


def breakable(name: str) -> Markup:
    """An escaped name that may break across lines after its colons, commas and equals signs."""
    return Markup("<wbr>").join(re.split(r"(?<=[:,=/])(?=.)", name))


def _package_text(name: str) -> str:
    return files("modelmoat.report").joinpath("templates", name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """Digest by which the page's content policy lets this script run and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
