"""Benign users who ask while an attacker does: what a defense with a memory sees of a theft is mixed with them."""

from __future__ import annotations

import torch
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.data import ImageSet
from modelmoat.training import as_float
from modelmoat.victims.answers import Answers, OutputFormat
from modelmoat.victims.ledger import Ledger
from modelmoat.victims.victim import Victim

USERS = 10
_TURN = 64  # queries of the attacker between those of users


class BusyVictim:
    """A victim that serves users between an attacker's queries, one share of all traffic.

    Users ask random images of their own, in turns from ten accounts; nobody counts their queries. The same attack meets
    the same traffic.

    Args:
        victim: that answers both.
        users: images that users ask.
        share: of all queries that are theirs, in [0, 1).
        seed: of their choice.
    """

    def __init__(self, victim: Victim, users: ImageSet, *, share: float, seed: int) -> None:
        require(0 <= share < 1, f"benign_share={share}: expected a share in [0, 1), such as 0.5")
        self._victim, self._users, self._ratio = victim, users, share / (1 - share)
        self._draws = generator(seed, "users")
        self.benign = 0

    @property
    def num_classes(self) -> int:
        """Length of a row of answers."""
        return self._victim.num_classes

    @property
    def output(self) -> OutputFormat:
        """What an answer looks like."""
        return self._victim.output

    @property
    def ledger(self) -> Ledger:
        """Queries of the attacker, spent and left."""
        return self._victim.ledger

    def query(self, inputs: Tensor, account: str = "default") -> Answers:
        """The attacker's answers; users are served before each part of them. Raises as `Victim.query` does."""
        self.ledger.admit(len(inputs))
        parts = []
        for part in inputs.split(_TURN):
            self._serve_users(round((self.ledger.sent + len(part)) * self._ratio) - self.benign)
            parts.append(self._victim.query(part, account))
        return Answers.join(parts)

    def _serve_users(self, count: int) -> None:
        if count <= 0:
            return
        rows = torch.randint(len(self._users), (count,), generator=self._draws)
        turns = (self.benign + torch.arange(count)) % USERS
        self.benign += count
        for turn in turns.unique().tolist():
            self._victim.serve(as_float(self._users.batch(rows[turns == turn])), f"user-{turn + 1}")
