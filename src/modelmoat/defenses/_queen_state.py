"""QUEEN's memory: how much of each class's sensitive region has been asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelmoat.defenses._queen_mapping import PLANE

_FIRST_LENGTH = 8


@dataclass(frozen=True)
class Queries:
    """Queries of one account, in the order in which they came; all tensors [N], ``points`` [N, 2].

    Attributes:
        labels: the victim's top class c.
        points: where they fall in the plane, u.
        inside: whether they fall in the sensitive region of their class.
        reach: radius r around a record within which nothing new is learned.
        gain: what a record adds to its counter, s^2 (r / rho)^2.
    """

    labels: Tensor
    points: Tensor
    inside: Tensor
    reach: Tensor
    gain: Tensor


class QueenState(nn.Module):
    """Counters and records of each class, for one or more accounts.

    Each pair of account and class has a row: Q, the cumulative sensitivity, and the points recorded so far. A row takes
    records only until its counter is above the threshold, and records are farther than r apart, so that memory is
    bounded by min(1 + threshold / (s^2 (r / rho)^2), (1 + 2 rho / r)^2) points per row, whatever is asked.

    Buffers: ``counters`` [A K], ``filled`` [A K] (records in each row), ``records`` [A K, L, 2] (infinity where empty),
    ``served`` [A, 2] (queries answered in all, and reversed).
    """

    counters: Tensor
    filled: Tensor
    records: Tensor
    served: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._places: dict[str, int] = {}
        for name, value in self._empty(0, _FIRST_LENGTH).items():
            self.register_buffer(name, value)

    @property
    def accounts(self) -> list[str]:
        """Accounts that have asked, in the order of their first query."""
        return list(self._places)

    def counter(self, account: str) -> Tensor:
        """Q of each class, [K] on the CPU; zeros for an account that never asked."""
        rows = self._rows(account)
        return torch.zeros(self.num_classes) if rows is None else self.counters[rows].detach().to("cpu", copy=True)

    def recorded(self, account: str, label: int) -> Tensor:
        """Points recorded for a class, [M, 2] on the CPU, in order."""
        rows = self._rows(account)
        if rows is None:
            return torch.empty(0, PLANE)
        return self.records[rows][label, : int(self.filled[rows][label])].detach().to("cpu", copy=True)

    def observe(self, account: str, queries: Queries, threshold: float) -> Tensor:
        """Take in queries and say which of them are to be reversed, bool [N].

        A query is sensitive if it lies inside and farther than r from all records of its class. If its counter is above
        the threshold, it is reversed and changes nothing; otherwise it is recorded and its gain is added. The outcome is
        that of taking one query after the other, found in as many rounds as one class has new records: each round
        records the first open query of every class and drops what lies within r of it.
        """
        rows = self._open(account) + queries.labels
        pending = queries.inside & self._fresh(rows, queries)
        order = torch.arange(len(rows), device=rows.device)
        while bool((open_ := pending & (self.counters[rows] <= threshold)).any()):
            first = torch.full_like(self.filled, len(rows)).scatter_reduce(0, rows[open_], order[open_], "amin")
            leaders = first[first < len(rows)]
            self._record(rows[leaders], queries.points[leaders], queries.gain[leaders])
            ahead = queries.points[first[rows].clamp_max(len(rows) - 1)]
            near = (queries.points - ahead).norm(dim=1) <= queries.reach
            pending &= ~(open_ & near)
        self._count(account, pending)
        return pending

    def facts(self) -> dict[str, Any]:
        """What the shapes of the buffers follow from."""
        return {"accounts": self.accounts, "length": self.records.shape[1]}

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Empty buffers for the accounts and lengths of saved facts; their values come with the tensors."""
        self._places = {account: place for place, account in enumerate(facts["accounts"])}
        for name, value in self._empty(len(self._places), int(facts["length"])).items():
            setattr(self, name, value.to(self.counters.device))

    def _fresh(self, rows: Tensor, queries: Queries) -> Tensor:
        distances: Tensor = (self.records[rows] - queries.points[:, None]).norm(dim=2)
        return (distances > queries.reach[:, None]).all(dim=1)

    def _record(self, rows: Tensor, points: Tensor, gain: Tensor) -> None:
        """Add one record to each of some different rows."""
        places = self.filled[rows]
        if int(places.max()) >= self.records.shape[1]:
            self.records = torch.cat([self.records, torch.full_like(self.records, torch.inf)], dim=1)
        self.records[rows, places] = points
        self.filled[rows] = places + 1
        self.counters[rows] += gain

    def _count(self, account: str, reversed_: Tensor) -> None:
        new = torch.tensor([len(reversed_), int(reversed_.sum())], device=self.served.device)
        self.served[self._places[account]] += new

    def _open(self, account: str) -> int:
        """First row of an account, made if there is none."""
        if account not in self._places:
            self._places[account] = len(self._places)
            for name, value in self._empty(1, self.records.shape[1]).items():
                old = getattr(self, name)
                setattr(self, name, torch.cat([old, value.to(old.device)]))
        return self._places[account] * self.num_classes

    def _rows(self, account: str) -> slice | None:
        if account not in self._places:
            return None
        first = self._places[account] * self.num_classes
        return slice(first, first + self.num_classes)

    def _empty(self, accounts: int, length: int) -> dict[str, Tensor]:
        rows = accounts * self.num_classes
        return {
            "counters": torch.zeros(rows),
            "filled": torch.zeros(rows, dtype=torch.int64),
            "records": torch.full((rows, length, PLANE), torch.inf),
            "served": torch.zeros(accounts, 2, dtype=torch.int64),
        }
