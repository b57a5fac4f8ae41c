"""From records of many runs to arenas: one victim, one kind of access, one budget, where defenses can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelmoat.core.errors import RunError
from modelmoat.core.records import PARQUET_FILE, RECORDS_FILE, Record, read_records
from modelmoat.leaderboard.naming import Entry, Key, Plan, defense_labels, read_plans
from modelmoat.studies.table import STUDY_COLUMNS, read_tables


@dataclass(frozen=True, order=True)
class Setting:
    """What has to be equal for two defenses to be compared; ``access`` is the kind of answers that leave the victim."""

    data: str
    victim: str
    access: str
    budget: int


@dataclass(frozen=True)
class Arena:
    """The records of one setting, each cell once.

    In these records ``defense`` and ``attack`` are labels that tell all settings apart, ``victim_digest`` is the same for
    all, and every pair of a trained victim and a seed has a ``seed`` of its own. ``specs`` gives the references that
    stand behind the label of a defense, ``attackers`` the one behind that of an attack.
    """

    setting: Setting
    records: tuple[Record, ...]
    specs: dict[str, tuple[str, ...]]
    attackers: dict[str, str]


def read_rows(sources: Sequence[Path]) -> list[Entry]:
    """Records of folders of ``bench`` or ``assess`` and of Parquet files.

    Plans of defenses are those of ``study.json`` in the folder or beside the file.

    Raises:
        RunError: a source has no records, or some that this version cannot read.
    """
    return [row for source in sources for row in _read(source)]


def _read(source: Path) -> list[Entry]:
    if (source / RECORDS_FILE).is_file() and not (source / PARQUET_FILE).is_file():  # not finished, or cut short
        return [Entry("", "", 0, "", record) for record in read_records(source, repair=False)]
    plans = read_plans(source.parent if source.is_file() else source)
    return [_entry(source, values, plans) for values in read_tables([source]).to_pylist()]


def _entry(source: Path, values: dict[str, Any], plans: Mapping[Key, Plan]) -> Entry:
    own = {name: values[name] if values[name] is not None else kind() for name, kind in STUDY_COLUMNS.items()}
    given = {name: value for name, value in values.items() if name in Record.model_fields and value is not None}
    for name in ("latency_ratios", "latency_ms"):
        if name in given:
            given[name] = dict(given[name])
    try:
        plan = plans.get((own["study"], own["victim_name"], own["defense_name"]))
        return Entry(**own, record=Record(**given), plan=plan)
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}; "
            "fix: use the version that wrote the file, or run the command that wrote it again"
        ) from error


def arenas(rows: Iterable[Entry]) -> list[Arena]:
    """One for each setting, sorted; raises `RunError` without rows."""
    rows = list(rows)
    if not rows:
        raise RunError("no records to rank; fix: name folders that modelmoat bench or assess wrote")
    victims = _victims(rows)
    groups: dict[Setting, list[Entry]] = {}
    for row in rows:
        record = row.record
        setting = Setting(record.data, victims[_trained(row)], record.output_kind, record.budget)
        groups.setdefault(setting, []).append(row)
    return [_arena(setting, groups[setting]) for setting in sorted(groups)]


def _kind(record: Record) -> tuple[str, str]:
    return record.data, f"{record.victim_arch}, {record.victim_recipe}"


def _victims(rows: Sequence[Entry]) -> dict[tuple[str, str, str], str]:
    """What every row's victim is called: architecture and recipe, and what else tells two of one data set apart.

    A study's trainings of one victim are one, whatever their seed; studies that share these share the victim. Any other
    victim is told by its weights.
    """
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        key = _trained(row)[:2]
        first[key] = min(first.get(key, row.record.victim_digest), row.record.victim_digest)
    names = {first[_trained(row)[:2]]: (_kind(row.record), row.victim_name) for row in reversed(rows)}
    return {_trained(row): _told_apart(first[_trained(row)[:2]], names) for row in rows}


def _trained(row: Entry) -> tuple[str, str, str]:
    """Study, victim and weights; outside of studies the weights are the victim's name."""
    digest = row.record.victim_digest
    return (row.study, row.victim_name, digest) if row.victim_name else ("", digest, digest)


def _told_apart(digest: str, names: Mapping[str, tuple[tuple[str, str], str]]) -> str:
    kind, name = names[digest]
    twins = [other for other in names.values() if other[0] == kind]
    if len(twins) == 1:
        return kind[1]
    alone = name and [own for _, own in twins].count(name) == 1
    return f"{kind[1]} ({name if alone else ', '.join(filter(None, (name, digest[:8])))})"


def _arena(setting: Setting, rows: Sequence[Entry]) -> Arena:
    trained = sorted({(row.record.victim_digest, row.record.seed) for row in rows})
    number = {pair: position for position, pair in enumerate(trained)}
    attackers = _attack_names([row.record for row in rows])
    kept: dict[tuple[str, str, int], Record] = {}
    specs: dict[str, set[str]] = {}
    for row, label in zip(rows, defense_labels(rows), strict=True):
        record = row.record
        update = {
            "victim_digest": setting.victim,
            "defense": label,
            "attack": attackers[_attacker(record)],
            "seed": number[record.victim_digest, record.seed],
        }
        copied = record.model_copy(update=update)
        kept.setdefault((label, copied.attack, copied.seed), copied)
        specs.setdefault(label, set()).add(record.defense)
    ordered = tuple(kept[key] for key in sorted(kept))
    return Arena(
        setting=setting,
        records=ordered,
        specs={label: tuple(sorted(found)) for label, found in sorted(specs.items())},
        attackers={label: attack for (attack, _, _), label in attackers.items()},
    )


def _attacker(record: Record) -> tuple[str, str, str]:
    return record.attack, record.pool, record.clone_arch


def _attack_names(records: Sequence[Record]) -> dict[tuple[str, str, str], str]:
    """The attack, and the pool or clone by which two attackers with one attack differ."""
    found = sorted({_attacker(record) for record in records})
    names = {}
    for attack, pool, clone in found:
        twins = [other for other in found if other[0] == attack]
        extra = [value for position, value in ((1, pool), (2, clone)) if len({other[position] for other in twins}) > 1]
        names[attack, pool, clone] = f"{attack} ({', '.join(extra)})" if extra else attack
    return names
