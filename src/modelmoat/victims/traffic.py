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
TURN = 8  # queries of one account before another one asks


def in_turns(inputs: Tensor, sent: int) -> tuple[Tensor, ...]:
    """The parts of a batch that belong to one turn each, where ``sent`` queries came before it.

    Turns end at the same queries of a stream, however it is cut into batches.

    >>> [len(part) for part in in_turns(torch.zeros(20, 1), sent=6)]
    [2, 8, 8, 2]
    """
    return inputs.tensor_split(list(range(TURN - sent % TURN, len(inputs), TURN)))


class BusyVictim:
    """A victim that serves users between an attacker's queries, one share of all traffic.

    Users ask random images of their own, in turns from ten accounts, each before a turn of the attacker; nobody counts
    their queries. The same stream of queries meets the same traffic, however it is cut into batches.

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
        """The attacker's answers; users are served before each turn. Raises as `Victim.query` does."""
        self.ledger.admit(len(inputs))
        parts = []
        for part in in_turns(inputs, self.ledger.sent):
            turn, into = divmod(self.ledger.sent, TURN)
            if not into:
                self._serve_users(round((turn + 1) * TURN * self._ratio) - self.benign, f"user-{turn % USERS + 1}")
            parts.append(self._victim.query(part, account))
        return Answers.join(parts)

    def _serve_users(self, count: int, account: str) -> None:
        if count > 0:
            rows = torch.randint(len(self._users), (count,), generator=self._draws)
            self._victim.serve(as_float(self._users.batch(rows)), account)
            self.benign += count
