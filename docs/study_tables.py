"""Tables of studies in Markdown pages, from the records under results/.

A page asks for one by a comment, ``<!-- table: KIND STUDY [COLUMN] -->``, which ends at ``<!-- /table -->``. Kinds:

- ``attacks``: a row for each victim and defense, a column for each attacker, at the largest budget;
- ``suite``: a row for each attacker, a column for each defense;
- ``winners``: the best attacker behind each defense, and its gap to the best one behind ``label_only``;
- ``budgets``: a row for each victim, defense and attacker, a column for each budget.

Values are the column of the records (``clone_accuracy``), in percent, as mean and 95% Student interval over seeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from modelmoat.metrics.intervals import mean_interval
from modelmoat.studies import read_tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
PAGES = (ROOT / "docs" / "trials.md",)
_PLACE = re.compile(r"(<!-- table: (\w+) (\w+)(?: (\w+))? -->\n).*?(<!-- /table -->)", re.DOTALL)
_OWN_KIND = ("data_at_hand", "no_victim")  # attackers with images of the victim's kind, or with no queries

Row = dict[str, Any]


class Records:
    """The records of one study, and how to put them into words.

    Args:
        rows: of its table.
        column: that is measured.
    """

    def __init__(self, rows: Sequence[Row], column: str) -> None:
        last = max(row["budget"] for row in rows)
        self.every = rows
        self.full = [row for row in rows if row["budget"] == last]
        self._column = column

    def names(self, column: str) -> list[Any]:
        """Values of a column, in the order of the records."""
        return list(dict.fromkeys(row[column] for row in self.every))

    def words(self, rows: Sequence[Row]) -> str:
        """Mean and interval over some records, in percent; empty without records."""
        return _percent([row[self._column] for row in rows])

    def served(self, rows: Sequence[Row]) -> str:
        """What users get: the mean over attackers, whom a stateful defense tells apart, of each seed's victim."""
        accuracies: dict[int, list[float]] = {}
        for row in rows:
            accuracies.setdefault(row["victim_seed"], []).append(row["defended_accuracy"])
        return _percent([sum(values) / len(values) for values in accuracies.values()])

    def moved(self, rows: Sequence[Row]) -> str:
        """Mean L1 between clean and served answers on test images."""
        return f"{sum(row['mean_l1'] for row in rows) / len(rows):.2f}"

    def short(self, rows: Sequence[Row]) -> str:
        """The mean alone."""
        return self.words(rows).partition(" ")[0]

    def by_seed(self, rows: Sequence[Row]) -> dict[int, float]:
        """What each seed gave."""
        return {row["seed"]: row[self._column] for row in rows}

    def mean(self, rows: Sequence[Row]) -> float:
        """Mean over some records."""
        values = self.by_seed(rows).values()
        return sum(values) / len(values)


def attacks_table(records: Records) -> str:
    """Victims and defenses by attackers; nothing on defenses where none was tried."""
    attacks, victims, defenses = (records.names(column) for column in ("attack", "victim_name", "defense_name"))
    several, defended = len(victims) > 1, defenses != ["none"]
    head = [*["victim"] * several, *["defense"] * defended, "served", *["mean L1"] * defended, *map(_code, attacks)]
    lines = []
    for victim, defense in product(victims, defenses):
        rows = _where(records.full, victim_name=victim, defense_name=defense)
        if rows:
            named = [*[victim] * several, *[_code(defense)] * defended]
            cells = [records.words(_where(rows, attack=attack)) for attack in attacks]
            lines.append([*named, records.served(rows), *[records.moved(rows)] * defended, *cells])
    return _table(head, lines)


def suite_table(records: Records) -> str:
    """Attackers by defenses; the best attacker of each defense is bold."""
    defenses = records.names("defense_name")
    best = {name: _best(records, name, _stealing(records)) for name in defenses}
    lines = []
    for attack in records.names("attack"):
        cells = [records.short(_where(records.full, defense_name=name, attack=attack)) for name in defenses]
        lines.append(
            [
                _code(attack),
                *(f"**{cell}**" if best[name] == attack else cell for name, cell in zip(defenses, cells, strict=True)),
            ]
        )
    behind = [_where(records.full, defense_name=name) for name in defenses]
    lines.append(["served", *(records.served(rows).partition(" ")[0] for rows in behind)])
    lines.append(["mean L1", *map(records.moved, behind)])
    return _table(["attacker", *map(_code, defenses)], lines)


def winners_table(records: Records) -> str:
    """Who wins behind each defense, among all attackers and among those without images of the victim's kind."""
    every = _stealing(records)
    strangers = [attack for attack in every if not attack.startswith(_OWN_KIND)]
    head = ["defense", "served", "best attacker", "its clones", "gap to floor"]
    head += ["best without images of the victim's kind", "its clones", "gap to their floor"]
    lines = []
    for name in records.names("defense_name"):
        served = records.served(_where(records.full, defense_name=name))
        line = [_code(name), served.partition(" ")[0]]
        for attacks in (every, strangers):
            best = _best(records, name, attacks)
            rows = _where(records.full, defense_name=name, attack=best)
            line += [_code(best), records.words(rows), _gap(records, rows, attacks)]
        lines.append(line)
    return _table(head, lines)


def budgets_table(records: Records) -> str:
    """Victims, defenses and attackers by queries sent."""
    budgets = sorted(records.names("budget"))
    victims = records.names("victim_name")
    several = len(victims) > 1
    lines = []
    for victim, name, attack in product(victims, records.names("defense_name"), records.names("attack")):
        rows = _where(records.every, victim_name=victim, defense_name=name, attack=attack)
        if rows:
            cells = [records.words(_where(rows, budget=budget)) for budget in budgets]
            lines.append([*[victim] * several, _code(name), _code(attack), *cells])
    return _table([*["victim"] * several, "defense", "attacker", *(f"{one:,}" for one in budgets)], lines)


KINDS: dict[str, Callable[[Records], str]] = {
    "attacks": attacks_table,
    "suite": suite_table,
    "winners": winners_table,
    "budgets": budgets_table,
}


def updated(page: str, results: Path = RESULTS) -> str:
    """A page with each of its tables as the records have it now."""

    def filled(match: re.Match[str]) -> str:
        start, kind, study, column, end = match.groups()
        rows = read_tables([results / study]).to_pylist()
        return f"{start}\n{KINDS[kind](Records(rows, column or 'clone_accuracy'))}\n\n{end}"

    return _PLACE.sub(filled, page)


def _stealing(records: Records) -> list[str]:
    """Attackers that ask the victim."""
    return list(dict.fromkeys(row["attack"] for row in records.full if row["sent"] > 0))


def _best(records: Records, defense: str, attacks: Iterable[str]) -> str:
    means = {
        attack: records.mean(rows)
        for attack in attacks
        if (rows := _where(records.full, defense_name=defense, attack=attack))
    }
    return max(means, key=lambda attack: means[attack])


def _gap(records: Records, rows: Sequence[Row], attacks: Iterable[str]) -> str:
    """How far clones are above those of the best of the attackers behind ``label_only``, seed by seed."""
    best = _best(records, "label_only", attacks)
    floor = records.by_seed(_where(records.full, defense_name="label_only", attack=best))
    mine = records.by_seed(rows)
    return _percent([mine[seed] - floor[seed] for seed in sorted(mine.keys() & floor.keys())], sign="+")


def _where(rows: Iterable[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def _percent(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    interval = mean_interval([100 * value for value in values])
    mean = f"{interval.mean:{sign}.1f}".replace("-", "\N{MINUS SIGN}")
    return mean if interval.half_width is None else f"{mean} ± {interval.half_width:.1f}"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with numbers to the right."""
    columns = zip(*lines, strict=True)
    rule = ["---:" if all(map(_is_number, column)) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *lines))


def _is_number(cell: str) -> bool:
    return not cell or cell.strip("*+\N{MINUS SIGN}")[0].isdigit()


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
