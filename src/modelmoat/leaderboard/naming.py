"""What a ranking calls a defense: the study's name, and what tells it apart where two studies give one name to two."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmoat.core.errors import RunError
from modelmoat.report.curves import FLOOR, is_undefended
from modelmoat.report.wording import listed
from modelmoat.studies.folder import STUDY_FILE
from modelmoat.studies.table import Row


@dataclass(frozen=True)
class Plan:
    """A defense as it was asked for: its reference, and in words the limit that it was calibrated to, if any.

    Records have what calibration made of it, which differs between the victims of one study.
    """

    spec: str
    limit: str = ""


@dataclass(frozen=True)
class Entry(Row):
    """A record, and the plan of its defense where the study's file tells it."""

    plan: Plan | None = None


Key = tuple[str, str, str]


def read_plans(folder: Path) -> dict[Key, Plan]:
    """What a study's folder says of its defenses, by study, victim and name; empty for a folder without a study.

    Raises:
        RunError: there is a study's file, and it cannot be read.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        return {}
    try:
        study = json.loads(path.read_bytes())["study"]
        return {
            (study["study"], victim, plan["name"]): Plan(plan["defense"], _limit(plan["calibrate"] or {}))
            for victim, own in study["victims"].items()
            for plan in (study["defenses"] if own["defenses"] is None else own["defenses"])
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged: {type(error).__name__}: {error}; fix: remove it, and run modelmoat bench again"
        ) from error


def _limit(calibrate: dict[str, Any]) -> str:
    given = {"L1": calibrate.get("max_l1"), "accuracy drop": calibrate.get("max_accuracy_drop")}
    limits = [f"{name} {limit:g}" for name, limit in given.items() if limit is not None]
    step = calibrate.get("step")
    return listed(limits) + (f", by {step}" if step else "") if limits else ""


def defense_name(row: Row) -> str:
    """What the study calls it, since calibration may write it differently for every victim; ceiling and floor as they are."""
    spec = row.record.defense
    if is_undefended(spec) or spec == FLOOR:
        return spec
    return row.defense_name or spec


def defense_labels(entries: Sequence[Entry]) -> list[str]:
    """A label for each entry; two entries share one exactly if they are of one defense, as far as studies tell."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(defense_name(entry), []).append(entry)
    labels = {name: _labels(name, own) for name, own in groups.items()}
    return [labels[defense_name(entry)][_identity(entry)] for entry in entries]


def _identity(entry: Entry) -> Plan | str:
    """The plan, or the study's name where its file is not at hand."""
    return entry.plan or (entry.study or Plan(entry.record.defense))


def _labels(name: str, own: Sequence[Entry]) -> dict[Plan | str, str]:
    found = {_identity(entry) for entry in own}
    plans = [one for one in found if isinstance(one, Plan)]
    if name == FLOOR or is_undefended(name) or (len(plans) < 2 and not _doubtful(own)):
        return dict.fromkeys(found, name)
    return {one: _label(name, one, found) for one in found}


def _doubtful(own: Sequence[Entry]) -> bool:
    """Whether studies without a file mean different defenses by one name: two references for one victim and seed."""
    if all(isinstance(_identity(entry), Plan) for entry in own):
        return False
    specs: dict[tuple[str, int], set[str]] = {}
    for entry in own:
        specs.setdefault((entry.record.victim_digest, entry.record.seed), set()).add(entry.record.defense)
    return any(len(one) > 1 for one in specs.values())


def _label(name: str, one: Plan | str, found: Collection[Plan | str]) -> str:
    """The name with what tells one of several apart: reference, limit, or the study alone."""
    if isinstance(one, str):
        return f"{name} (study {one})"
    others = [other if isinstance(other, Plan) else None for other in found]
    same_spec = all(other and other.spec == one.spec for other in others)
    same_limit = all(other and other.limit == one.limit for other in others)
    label = name if same_spec or one.spec == name else f"{name} ({one.spec})"
    if same_limit:
        return label
    return f"{label} at {one.limit}" if one.limit else f"{label}, not calibrated"
