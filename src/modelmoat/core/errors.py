"""Every error that modelmoat raises on purpose.

```
ModelmoatError                 the message has the value given, the limit, the fix
├── UsageError                 what was asked for cannot be done (exit code 2)
│   ├── UnknownReference       a data, model or method reference that names nothing
│   ├── OptionError            a parameter outside its limits
│   ├── DataError              images or labels that cannot be used
│   ├── ModelError             a model that cannot be loaded, or that does not fit the data
│   │   └── InvalidAnswer      a model answered with something that is not an answer
│   └── RunError               a run directory that does not fit the command
├── BudgetExhausted            the ledger refused inputs past the budget
├── ProcessLost                another process of the same training ended
└── TrainingDiverged           the loss of a training is no longer a number
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModelmoatError(Exception):
    """Base of every error raised on purpose."""


class UsageError(ModelmoatError):
    """What was asked for cannot be done as asked."""


class UnknownReference(UsageError):  # noqa: N818 - says what happened
    """A data, model or method reference that names nothing."""


class OptionError(UsageError):
    """A parameter outside its limits."""


class DataError(UsageError):
    """Images or labels that cannot be used."""


class ModelError(UsageError):
    """A model that cannot be loaded, or that does not fit the data."""


class RunError(UsageError):
    """A run directory that does not fit the command."""


class BudgetExhausted(ModelmoatError):  # noqa: N818 - the name the field uses
    """The ledger refused inputs past the budget; nothing was charged for them."""


class InvalidAnswer(ModelError):  # noqa: N818 - reads as what happened
    """A model answered with something that is not a row of probabilities or scores."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known name, or an empty string.

    >>> nearest("nockoff", ["knockoff", "jbda"])
    "; did you mean 'knockoff'?"
    >>> nearest("zzz", ["knockoff"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str], *, fix: str = "") -> UnknownReference:
    """Build the error for a name that is not in a list: what was given, what is possible, the nearest match."""
    names = sorted(known)
    tail = f"; {fix}" if fix else ""
    hint = nearest(name, names) or "."
    return UnknownReference(f"unknown {kind} '{name}'{hint} Known: {', '.join(names)}{tail}")


def require(condition: bool, message: str) -> None:
    """Raise `OptionError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise OptionError(message)
