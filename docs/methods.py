"""Write the table of methods in the README from the registries."""

from __future__ import annotations

import re
from pathlib import Path

from modelmoat.attacks import ATTACKS, RECOVERIES
from modelmoat.defenses import DEFENSES
from modelmoat.models import arch_names
from modelmoat.recipes import RECIPES

README = Path(__file__).parent.parent / "README.md"
_TABLE = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.DOTALL)


def table() -> str:
    """One line per family, names in alphabetical order."""
    families = {
        "attacks": ATTACKS.names(),
        "recoveries": RECOVERIES.names(),
        "defenses": DEFENSES.names(),
        "recipes": RECIPES.names(),
        "archs": arch_names(),
    }
    rows = [f"| {family} | {' '.join(f'`{name}`' for name in sorted(names))} |" for family, names in families.items()]
    return "\n".join(["", "| family | methods |", "| --- | --- |", *rows, "", ""])


def updated(readme: str) -> str:
    """The README with the table as the registries have it now."""
    return _TABLE.sub(lambda match: match[1] + table() + match[2], readme)


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
