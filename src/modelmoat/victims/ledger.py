"""Counting at the boundary: one input answered is one query."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from modelmoat.core.errors import BudgetExhausted, RunError, require
from modelmoat.victims.hashing import Keys
from modelmoat.victims.journal import Frame, Journal


class Ledger:
    """Counts every answered input, refuses past the budget, and remembers answers across interruptions.

    With a journal, a run that is started again from its beginning gets the recorded answers to the queries that it had
    already paid for, in the same order, and the victim is asked only for the rest. Replayed answers count like the
    first time, so both counts end where they would have ended without the interruption.

    Args:
        budget: how many inputs may be answered in all; None for no limit.
        journal: where answers are kept; None keeps counts alone.

    >>> ledger = Ledger(budget=2)
    >>> ledger.admit(3)
    Traceback (most recent call last):
    ...
    modelmoat.core.errors.BudgetExhausted: 3 inputs were sent with 2 of 2 queries left; ...
    """

    def __init__(self, budget: int | None = None, journal: Journal | None = None) -> None:
        require(budget is None or budget >= 1, f"budget={budget}: expected at least 1 query, or None for no limit")
        self.budget = budget
        self._journal = journal
        self._recorded = _Recording(journal.frames) if journal else None
        self._seen: set[bytes] = set()
        self._by_account: Counter[str] = Counter()

    @property
    def sent(self) -> int:
        """Inputs answered, repeats included."""
        return self._by_account.total()

    @property
    def unique(self) -> int:
        """Different inputs answered."""
        return len(self._seen)

    @property
    def left(self) -> int | None:
        """Queries left in the budget; None for no limit."""
        return None if self.budget is None else self.budget - self.sent

    @property
    def by_account(self) -> dict[str, int]:
        """Inputs answered for each account."""
        return dict(self._by_account)

    def admit(self, count: int) -> None:
        """Raise `BudgetExhausted` unless ``count`` more inputs fit in the budget; charges nothing."""
        if self.left is not None and count > self.left:
            raise BudgetExhausted(
                f"{count} inputs were sent with {self.left} of {self.budget} queries left; none was answered or charged; "
                f"fix: send at most {self.left}, or raise the budget"
            )

    def replay(self, keys: Keys, account: str) -> Tensor:
        """Recorded answers to the first inputs of a batch, charged; shape [M, K] with M from 0 to the batch size."""
        rows = self._recorded.take(keys, account) if self._recorded else torch.empty(0, 0)
        self._charge(keys[: len(rows)], account)
        return rows

    def record(self, keys: Keys, account: str, rows: Tensor) -> None:
        """Charge answered inputs and write their answers to the journal before anyone sees them."""
        if self._journal:
            self._journal.append(Frame(account, keys, rows))
        self._charge(keys, account)

    def _charge(self, keys: Keys, account: str) -> None:
        self._by_account[account] += len(keys)
        self._seen.update(key.tobytes() for key in keys)


class _Recording:
    """Frames of a journal, handed out again in their order."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames
        self._frame = 0
        self._row = 0

    def take(self, keys: Keys, account: str) -> Tensor:
        parts: list[Tensor] = []
        while len(keys) and self._frame < len(self._frames):
            frame = self._frames[self._frame]
            count = min(len(keys), len(frame.rows) - self._row)
            recorded = frame.keys[self._row : self._row + count]
            if frame.account != account or recorded.tobytes() != keys[:count].tobytes():
                raise RunError(
                    "this run asks other inputs than the interrupted run it would continue (its queries are recorded in "
                    "this folder); the same seed gives the same inputs on the same machine, thread count and version; "
                    "fix: go on where it was started, or use another --out folder"
                )
            parts.append(frame.rows[self._row : self._row + count])
            self._advance(count)
            keys = keys[count:]
        return torch.cat(parts) if parts else torch.empty(0, 0)

    def _advance(self, count: int) -> None:
        self._row += count
        if self._row == len(self._frames[self._frame].rows):
            self._frame, self._row = self._frame + 1, 0
