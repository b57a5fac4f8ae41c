"""Inverting defenses that change each entry by itself and then make rows sum to one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Curve = Callable[[Tensor], Tensor]

_EDGE = 1e-7
_CELLS = 1 << 14
_ROOM = 1e-6  # served rows are float32
_GRID, _HALVINGS = 7, 14
_FINE_GRID, _FINE_HALVINGS = 33, 45
_LEAST = 1e-9
_AT_ONCE = 2048  # entries of rows, in float64; times all that is tried
_SOLVED, _UNSOLVED = 1e-6, 1e6


class ElementwiseInverse:
    """Rows y with h(y_k) / sum h(y) = s_k for served rows s, where h falls and rises on [0, 1] a few times.

    Let Z = sum h(y). Once it is known on which monotone piece of h each entry lies, y_k is the inverse of that piece at
    Z s_k, and Z follows from sum y = 1, one equation with one unknown. The pieces are not known where Z s_k has more than
    one inverse. The top entry is tried on every piece but the first, the others on the first, where nearly all small
    entries lie, and on the second. With the others in falling order of what was served, those tried on the second are:
    every choice among the first ``wide``; the first few up to all, for flat rows; the last few, since entries just past the
    turn are served smallest. Of all rows that are served as s, the likeliest is taken if every logit(y_k) is as likely as
    any other: the one with the largest - sum log (y_k (1 - y_k) |h'(y_k)|).

    Args:
        curve: h, on float64 tensors.
        floor: entries below are taken for this one.
        ceiling: rows with a larger entry were not served in this way.
        wide: of how many entries every choice is tried; time grows as 2^wide.

    >>> inverse = ElementwiseInverse(lambda y: y * y)
    >>> rows, solved = inverse(torch.tensor([[0.9, 0.1]]))
    >>> rows, solved
    (tensor([[0.7500, 0.2500]]), tensor([True]))
    """

    def __init__(self, curve: Curve, *, floor: float = _EDGE, ceiling: float = 1.0, wide: int = 5) -> None:
        self._curve, self._floor, self._ceiling, self._wide = curve, floor, ceiling, wide
        pieces = _monotone_pieces(curve, floor)
        self._low = torch.stack([values[0] for _, values in pieces])
        self._high = torch.stack([values[-1] for _, values in pieces])
        self._inverse = torch.stack([_resampled(entries, values) for entries, values in pieces])

    def __call__(self, served: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, K] that are served as these, and for which of them, bool [N], there is one; the nearest for others."""
        rows = served.double().clamp_min(_EDGE * _EDGE)
        size = max(1, _AT_ONCE // rows.shape[1])
        pieces = torch.cat([self._likeliest_pieces(part) for part in rows.split(size)])
        found, off = self._solve(rows, pieces, _FINE_GRID, _FINE_HALVINGS)
        clean = (found / found.sum(dim=1, keepdim=True).clamp_min(_LEAST)).to(served.dtype)
        return torch.where(off.isfinite()[:, None], clean, served), off < _SOLVED

    def _likeliest_pieces(self, rows: Tensor) -> Tensor:
        """Number of the piece on which each entry lies, int64 [N, K]."""
        tries = self._tries(rows)  # [T, N, K]
        found, off = self._solve(rows.repeat(len(tries), 1), tries.flatten(0, 1), _GRID, _HALVINGS)
        score = torch.where(off < _SOLVED, self._log_likelihood(found), -_UNSOLVED * (1 + off))
        best = score.view(len(tries), -1).argmax(dim=0)
        return tries.gather(0, best[None, :, None].expand(1, *rows.shape))[0]

    def _tries(self, rows: Tensor) -> Tensor:
        """All assignments of entries to pieces that are tried, int64 [T, N, K]."""
        last = len(self._low)
        top = rows.argmax(dim=1, keepdim=True)
        others = rows.scatter(1, top, -1.0).argsort(dim=1, descending=True)[:, :-1]
        chosen = _choices(others.shape[1], self._wide) if last > 1 else [()]
        heads = range(min(1, last - 1), last)
        tries = []
        for head, places in itertools.product(heads, chosen):
            pieces = torch.zeros(rows.shape, dtype=torch.int64)
            pieces.scatter_(1, others[:, list(places)], 1)
            tries.append(pieces.scatter_(1, top, head))
        return torch.stack(tries)

    def _solve(self, rows: Tensor, pieces: Tensor, grid: int, halvings: int) -> tuple[Tensor, Tensor]:
        """The row with entries on given pieces, [N, K], and how far it is off, [N]: 0 for a solution, inf for none at all.

        Z is scanned in ``grid`` steps over the values at which every entry has an inverse, then bisected. At the largest of
        them the smallest entries are zero but for rounding: a row that fits there is saturated.
        """
        found, off = torch.zeros_like(rows), torch.full((len(rows),), torch.inf, dtype=rows.dtype)
        low = (self._low[pieces] / rows).amax(dim=1) * (1 - _ROOM)
        high = (self._high[pieces] / rows).amin(dim=1) * (1 + _ROOM)
        possible = (low <= high).nonzero()[:, 0]
        if not len(possible):
            return found, off
        rows, pieces = rows[possible], pieces[possible]
        scales = torch.lerp(low[possible], high[possible], torch.linspace(0, 1, grid, dtype=rows.dtype)[:, None])
        misses = torch.stack([self._missing(rows, pieces, scale) for scale in scales])
        crossed = misses[1:] * misses[:-1] <= 0
        within, ended = crossed.any(dim=0), misses[-1].abs() <= 2 * _EDGE * rows.shape[1]
        solved = within | ended
        at = torch.where(within, crossed.to(torch.uint8).argmax(dim=0), misses.abs().argmin(dim=0))
        at = torch.where(ended, grid - 1, at)[None]
        left, side = scales.gather(0, at)[0], misses.gather(0, at)[0].sign()
        right = scales.gather(0, (at + within).clamp_max(grid - 1))[0]
        for _ in range(halvings):
            middle = (left + right) / 2
            same = self._missing(rows, pieces, middle).sign() == side
            left, right = torch.where(same, middle, left), torch.where(same, right, middle)
        entries = self._entries(rows, pieces, (left + right) / 2)
        found[possible] = entries
        beyond = entries.amax(dim=1) > self._ceiling
        off[possible] = torch.where(solved, 0.0, misses.abs().amin(dim=0)) + beyond
        return found, off

    def _missing(self, rows: Tensor, pieces: Tensor, scale: Tensor) -> Tensor:
        """How far the entries at Z = ``scale`` [N] sum past one."""
        return self._entries(rows, pieces, scale).sum(dim=1) - 1

    def _entries(self, rows: Tensor, pieces: Tensor, scale: Tensor) -> Tensor:
        """Entries y on given pieces with h(y) = scale * row, from a table at equal steps of h."""
        low, high = self._low[pieces], self._high[pieces]
        place = ((scale[:, None] * rows - low) / (high - low)).clamp(0, 1) * (_CELLS - 1)
        cell = place.floor().clamp_max(_CELLS - 2)
        table, first = self._inverse.view(-1), pieces * _CELLS + cell.long()
        return torch.lerp(table[first], table[first + 1], place - cell)

    def _log_likelihood(self, rows: Tensor) -> Tensor:
        y = rows.clamp(_LEAST, 1 - _LEAST)
        step = 1e-4 * torch.minimum(y, 1 - y).clamp_min(_LEAST)
        slope = (self._curve(y + step) - self._curve(y - step)).abs() / (2 * step)
        slope[rows <= 1.01 * self._floor] = 0.0  # all smaller ones are served alike
        return -(y.log() + (1 - y).log() + slope.clamp_min(1e-3).log()).sum(dim=1)


def _monotone_pieces(curve: Curve, floor: float) -> list[tuple[Tensor, Tensor]]:
    """Entries and values of the curve on each piece, both in the order of rising values."""
    left, right = (torch.logspace(math.log10(least), -2, 20_000, dtype=torch.float64) for least in (floor, _EDGE))
    middle = torch.linspace(0.01, 0.99, 50_000, dtype=torch.float64)
    entries = torch.cat([left[:-1], middle, (1 - right.flip(0))[1:]])
    values = curve(entries)
    rises = values.diff() > 0
    turns = (rises[1:] != rises[:-1]).nonzero()[:, 0] + 1
    pieces = []
    for first, last in itertools.pairwise([0, *turns.tolist(), len(entries) - 1]):
        part, height = entries[first : last + 1], values[first : last + 1]
        pieces.append((part, height) if height[0] < height[-1] else (part.flip(0), height.flip(0)))
    return pieces


def _choices(count: int, wide: int) -> list[tuple[int, ...]]:
    """Every choice among the first ``wide`` of ``count`` places, and runs of places from either end, each half as long again.

    >>> _choices(4, 1)
    [(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (1, 2, 3), (2, 3), (3,)]
    """
    first = range(min(wide, count))
    chosen = {places for size in range(len(first) + 1) for places in itertools.combinations(first, size)}
    length = 0
    while length < count:
        length = min(count, max(length + 1, length * 3 // 2))
        chosen |= {tuple(range(length)), tuple(range(count - length, count))}
    return sorted(chosen)


def _resampled(entries: Tensor, values: Tensor) -> Tensor:
    """The inverse of a rising piece at equal steps of its values, [_CELLS]."""
    wanted = torch.linspace(float(values[0]), float(values[-1]), _CELLS, dtype=values.dtype)
    above = torch.searchsorted(values.contiguous(), wanted).clamp(1, len(values) - 1)
    below = above - 1
    share = (wanted - values[below]) / (values[above] - values[below]).clamp_min(1e-300)
    return torch.lerp(entries[below], entries[above], share.clamp(0, 1))
