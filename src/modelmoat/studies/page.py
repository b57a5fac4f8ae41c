"""The page of a study: verdicts on its claims, and what each attacker got from each defended victim."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modelmoat import __version__
from modelmoat.core.files import write_text
from modelmoat.core.records import Record
from modelmoat.metrics.intervals import Interval, mean_interval
from modelmoat.report import Gap, gaps
from modelmoat.report.gap import gap_points
from modelmoat.report.templating import page_environment
from modelmoat.report.wording import count, percent, percent_interval
from modelmoat.studies.claims import Judgment
from modelmoat.studies.study import Study
from modelmoat.studies.table import Row

PAGE_FILE = "study.html"
_MARKS = {"reproduced": "under", "not reproduced": "over", "undecided": "open", "not tested": "open"}


def write_page(
    directory: Path,
    study: Study,
    rows: Sequence[Row],
    judgments: Sequence[Judgment],
    failures: Mapping[str, str],
    runs: Sequence[Mapping[str, Any]],
) -> Path:
    """Write ``study.html`` into the study's folder; one file that loads nothing from anywhere.

    Args:
        directory: the folder.
        study: what ran.
        rows: all records.
        judgments: on the claims.
        failures: errors of units that failed now.
        runs: when and with what units ran, as ``study.json`` has it.
    """
    environment = page_environment("modelmoat.studies")
    style = files("modelmoat.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    page = environment.get_template("study.html.j2").render(
        style=Markup(style),  # noqa: S704 - our own file
        study=study,
        version=_all_of(run["package_version"] for run in runs) or __version__,
        records=len(rows),
        claims=[_claim_row(judgment) for judgment in judgments],
        counts={verdict: sum(one.verdict == verdict for one in judgments) for verdict in _MARKS},
        cells=cell_rows(rows),
        gaps=gap_rows(rows),
        failures=failures,
        machine=_by_name([run["machine"] for run in runs]),
        versions=_by_name([run["versions"] for run in runs]),
    )
    path = directory / PAGE_FILE
    write_text(path, page)
    return path


def _by_name(parts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What several runs had, by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _all_of(part[name] for part in parts if name in part) for name in names}


def _all_of(values: Iterable[Any]) -> str:
    """Different values in order: ``2 / 16``."""
    return " / ".join(dict.fromkeys(map(str, values)))


def cell_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One for each victim, defense, attack and budget, averaged over seeds; in the order of the study."""
    groups: dict[tuple[str, str, str, int], list[Record]] = {}
    for row in rows:
        key = (row.victim_name, row.defense_name, row.record.attack, row.record.budget)
        groups.setdefault(key, []).append(row.record)
    return [
        {
            "victim": victim,
            "defense": defense,
            "attack": attack,
            "budget": count(budget),
            "seeds": len(group),
            "clone": percent_interval(_mean(group, "clone_accuracy")),
            "fidelity": percent_interval(_mean(group, "fidelity")),
            "served": percent(_mean(group, "defended_accuracy").mean),
            "l1": f"{_mean(group, 'mean_l1').mean:.2f}",
        }
        for (victim, defense, attack, budget), group in groups.items()
    ]


def gap_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The worst case of each defense of each victim over its attackers, between floor and ceiling.

    Every training of a victim counts as a seed of its own.
    """
    victims: dict[str, list[Record]] = {}
    for row in rows:
        victims.setdefault(row.victim_name, []).append(_as_one_victim(row))
    return [_gap_row(name, gap) for name, records in victims.items() for gap in gaps(records)]


def _as_one_victim(row: Row) -> Record:
    """The record under the study's names, so that all seeds of a victim and all settings of a defense are one."""
    seed = (row.victim_seed << 32) + row.record.seed
    return row.record.model_copy(
        update={"victim": row.victim_name, "victim_digest": row.victim_name, "defense": row.defense_name, "seed": seed}
    )


def _gap_row(victim: str, gap: Gap) -> dict[str, str]:
    return {
        "victim": victim,
        "defense": gap.defense,
        "gap": gap_points(gap),
        "worst": percent(gap.worst),
        "attack": gap.attack,
        "floor": percent(gap.floor),
        "ceiling": "" if gap.ceiling is None else percent(gap.ceiling),
        "budget": count(gap.budget),
        "bought": gap.bought,
    }


def _claim_row(judgment: Judgment) -> dict[str, str]:
    return {
        "text": judgment.text,
        "source": judgment.source,
        "published": judgment.published,
        "measured": judgment.error or measured_words(judgment.interval),
        "expect": judgment.expect,
        "verdict": judgment.verdict,
        "mark": _MARKS[judgment.verdict],
        "note": judgment.note,
    }


def measured_words(value: Interval | None) -> str:
    """Mean and half width of the 95 % interval, both to the second digit of the half width.

    >>> measured_words(Interval(0.08263, 0.16265, 3))
    '0.08 ± 0.16 (3 seeds)'
    >>> measured_words(Interval(21.37, 0.0, 3))
    '21.4 ± 0 (3 seeds)'
    """
    if value is None:
        return "no records"
    if value.half_width is None:
        return f"{value.mean:.3g} (one seed)"
    if value.half_width == 0:
        return f"{value.mean:.3g} ± 0 ({value.count} seeds)"
    digits = max(0, 1 - math.floor(math.log10(value.half_width)))
    mean = round(value.mean, digits) + 0.0  # no minus before zero
    return f"{mean:.{digits}f} ± {value.half_width:.{digits}f} ({value.count} seeds)"


def _mean(records: Sequence[Record], metric: str) -> Interval:
    return mean_interval([getattr(record, metric) for record in records])
