"""Verdicts on the claims of papers, from results/*/claims.json: a table for the README, and a page of the site."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter

from modelmoat.studies.claims import CLAIMS_FILE, Judgment
from modelmoat.studies.expectation import Verdict
from modelmoat.studies.folder import STUDY_FILE
from modelmoat.studies.page import measured_words

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "results"
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_WORDS: dict[Verdict, str] = {
    "reproduced": "reproduced",
    "not reproduced": "**not reproduced**",
    "undecided": "undecided",
    "not tested": "not tested",
}
UNBROKEN = "\N{NON-BREAKING HYPHEN}"
_TABLE = re.compile(r"(<!-- verdicts -->\n).*?(<!-- /verdicts -->)", re.DOTALL)
_JUDGMENTS = TypeAdapter(list[Judgment])
_INTRO = """# Verdicts

A study puts claims of a paper on trial: each is a number that is measured on the study's records, and a range that the claim
expects it in. Every seed gives one value; the verdict compares their mean and 95% Student interval with the range.

- **reproduced**: the whole interval lies in the range.
- **not reproduced**: the whole interval lies outside.
- **undecided**: the interval crosses an end of the range, or there is one seed only.
- **not tested**: records that the claim needs are missing.

A verdict holds for the setting of the study here, which is often smaller than the paper's. [Studies and claims](studies.md)
says how to run one.
"""

_LEADERBOARD = (  # the leaderboard is no page of mkdocs, which would not find a link to it
    'The records of all studies rank the defenses in the <a href="leaderboard/index.html">leaderboard</a>.\n'
)


@dataclass(frozen=True)
class StudyVerdicts:
    """What a study says of itself, and its claims."""

    name: str
    about: str
    updated: str
    judgments: tuple[Judgment, ...]

    def count(self, verdict: Verdict) -> int:
        """How many claims got a verdict."""
        return sum(judgment.verdict == verdict for judgment in self.judgments)


def read_studies(results: Path) -> list[StudyVerdicts]:
    """Every folder of results that has claims, by name; none where there are no results."""
    return [_read(path.parent) for path in sorted(results.glob(f"*/{CLAIMS_FILE}"))]


def _read(folder: Path) -> StudyVerdicts:
    judgments = _JUDGMENTS.validate_json((folder / CLAIMS_FILE).read_bytes())
    file = folder / STUDY_FILE
    saved = json.loads(file.read_bytes()) if file.is_file() else {}
    study = saved.get("study", {})
    return StudyVerdicts(
        study.get("study", folder.name), study.get("about", ""), saved.get("updated", "")[:10], tuple(judgments)
    )


def table(studies: Sequence[StudyVerdicts]) -> str:
    """How many claims of each study got each verdict."""
    rows = [[f"`{study.name}`", len(study.judgments), *map(study.count, VERDICTS)] for study in studies]
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    head = [f"| study | claims | {' | '.join(VERDICTS)} |", f"| --- |{' ---: |' * (1 + len(VERDICTS))}"]
    return "\n".join(["", *head, *lines, "", ""])


def claims(studies: Sequence[StudyVerdicts]) -> str:
    """Every claim with its verdict, for the README."""
    rows = [
        (f"`{study.name}`" if judgment is study.judgments[0] else "", *_cells(judgment))
        for study in studies
        for judgment in study.judgments
    ]
    head = ["| study | claim | published | measured here | verdict |", "| --- | --- | --- | ---: | --- |"]
    return "\n".join(["", *head, *(f"| {' | '.join(row)} |" for row in rows), "", ""])


def _cells(judgment: Judgment) -> tuple[str, ...]:
    measured, _, _ = measured_words(judgment.interval).partition(" (")
    return plain(judgment.text), plain(judgment.published), plain(measured), _WORDS[judgment.verdict]


def updated(readme: str) -> str:
    """The README with the table as the results have it now; unchanged where it has no place for it."""
    studies = read_studies(RESULTS)
    return _TABLE.sub(lambda match: match[1] + claims(studies) + match[2], readme) if studies else readme


def page(studies: Sequence[StudyVerdicts], *, ranked: bool = False) -> str:
    """The page of the site; ``ranked`` where the site has a leaderboard."""
    if not studies:
        return f"{_INTRO}\nThere are no results yet.\n"
    claimed = [study for study in studies if study.judgments]
    return "\n".join([_INTRO, *[_LEADERBOARD] * ranked, "## All studies", table(studies), *map(_section, claimed)])


def _section(study: StudyVerdicts) -> str:
    rows = [_row(judgment) for judgment in study.judgments]
    head = ["| verdict | claim | published | measured |", "| --- | --- | --- | --- |"]
    when = f"Run on {study.updated.replace('-', UNBROKEN)}." if study.updated else ""
    about = f"{study.about} {when}".strip()
    return "\n".join([f"## {study.name}", "", plain(about), "", *head, *rows, ""])


def _row(judgment: Judgment) -> str:
    details = [judgment.source, f"Expects {judgment.expect}.", judgment.note]
    small = "<br>".join(f"<small>{plain(text)}</small>" for text in details if text)
    mark = judgment.verdict.replace(" ", "-")
    verdict = f'<span class="verdict {mark}">{judgment.verdict}</span>'
    measured = plain(measured_words(judgment.interval)).replace(" ", "&nbsp;")
    claim = f"{plain(judgment.text)}<br>{small}"
    return f"| {verdict} | {claim} | {plain(judgment.published)} | {measured} |"


def plain(text: str) -> str:
    """Text on one line in which nothing is taken for Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)


if __name__ == "__main__":
    print(claims(read_studies(RESULTS)))  # noqa: T201 - a script
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
