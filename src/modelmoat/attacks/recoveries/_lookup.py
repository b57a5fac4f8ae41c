"""The mean of the clean rows whose served rows are nearest, by exact search in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelmoat.attacks.recoveries._table import Table

_QUERIES = 64
_VALUES = 1 << 22  # floats in a tensor of distances, or of rows of the table
_ROUNDING = 1e-6
_WIDER = 4.0


def posterior_mean(table: Table, received: Tensor, *, tolerance: float, same_top1: bool) -> Tensor:
    """E[clean | served], estimated for each received row s as the mean of clean rows whose served rows are near s.

    Near are rows within max(``tolerance``, smallest distance) of s in L1. With ``same_top1`` only rows of the same served
    top class count, as long as there is one.

    Distances are exact, but not all are computed: entries of two rows on the simplex differ by at most half their L1
    distance, so that a search within r looks only at rows whose entry for the top class of s is within r / 2 of its own,
    in an order by that entry; r grows until something is found. Memory beyond the table: three tensors of at most
    4 Mi floats, 48 MiB, and at most 36 bytes per row of the table.

    Args:
        table: pairs of clean and served rows, [R, K].
        received: rows [N, K].
        tolerance: in L1.
        same_top1: whether the defense keeps the top class.

    Returns:
        Float32 [N, K].
    """
    found = torch.empty_like(received, dtype=torch.float32)
    tops, own = table.served.argmax(dim=1), received.argmax(dim=1)
    for label in own.unique().tolist():
        asked = (own == label).nonzero()[:, 0]
        rows = (tops == label).nonzero()[:, 0] if same_top1 else torch.arange(len(table))
        rows = rows if len(rows) else torch.arange(len(table))
        found[asked] = _Ordered(table, rows, label).means(received[asked].float(), tolerance)
    return found


class _Ordered:
    """Some rows of a table, in the order of the served entry of one class."""

    def __init__(self, table: Table, rows: Tensor, label: int) -> None:
        self._table, self._label = table, label
        self._entries, order = table.served[rows, label].sort(stable=True)
        self._rows = rows[order]

    def means(self, received: Tensor, tolerance: float) -> Tensor:
        """Means for rows [N, K]."""
        found = torch.empty_like(received)
        waiting = received[:, self._label].argsort(stable=True)
        radius = tolerance + _ROUNDING
        while len(waiting):
            left = []
            for part in waiting.split(_QUERIES):
                sums, counts = self._within(received[part], radius, tolerance)
                has = counts > 0
                found[part[has]] = sums[has] / counts[has, None]
                left.append(part[~has])
            waiting, radius = torch.cat(left), max(radius, _ROUNDING) * _WIDER
        return found

    def _within(self, asked: Tensor, radius: float, tolerance: float) -> tuple[Tensor, Tensor]:
        """Sums of near clean rows [Q, K] and how many there are [Q]; none where nothing lies within the radius."""
        entries, room = asked[:, self._label], radius / 2 + _ROUNDING
        edges = torch.stack([entries.min() - room, entries.max() + room])
        first, last = torch.searchsorted(self._entries, edges).tolist()
        size = max(1, _VALUES // max(asked.shape))
        parts = self._rows[first:last].split(size) if first < last else ()
        if radius <= tolerance + _ROUNDING:
            return self._sums(asked, parts, asked.new_full((len(asked),), radius))
        nearest = asked.new_full((len(asked),), torch.inf)
        for part in parts:
            nearest = torch.minimum(nearest, self._distances(asked, part).amin(dim=1))
        return self._sums(asked, parts, torch.where(nearest <= radius, nearest + _ROUNDING, -1.0))

    def _sums(self, asked: Tensor, parts: Sequence[Tensor], limit: Tensor) -> tuple[Tensor, Tensor]:
        sums, counts = torch.zeros_like(asked), torch.zeros(len(asked))
        for part in parts:
            near = self._distances(asked, part).le_(limit[:, None])  # in place: ones and zeros, still floats
            sums += near @ self._table.clean[part]
            counts += near.sum(dim=1)
        return sums, counts

    def _distances(self, asked: Tensor, part: Tensor) -> Tensor:
        return torch.cdist(asked, self._table.served[part], p=1)
