"""Random splits of rows that never share a picture.

Rows with the same pixels form a group that goes to one split as a whole, so that no test picture was seen in training.
Sizes are met exactly where all pictures differ, and are exceeded by less than one group otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def first_occurrences(hashes: NDArray[np.bytes_]) -> Indices:
    """For each row, the first row with the same hash, int64 [N].

    >>> first_occurrences(np.array([b"x", b"y", b"x"], dtype="S16")).tolist()
    [0, 1, 0]
    """
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def share_of(total: int, share: float) -> int:
    """Rows that make a share: rounded, and at least one for a share above zero."""
    return max(1, round(total * share)) if share > 0 else 0


def draw(rows: Indices, groups: Indices, counts: Sequence[int], generator: torch.Generator) -> list[Indices]:
    """Draw disjoint sets of about ``counts`` rows at random; the last set returned is what is left.

    The first set depends on its own count only, so that a larger second one never moves it.

    Args:
        rows: rows to draw from, int64 [R].
        groups: for each row of the whole source, the first row of its group, int64 [N].
        counts: rows wanted in each set.
        generator: source of the draw.
    """
    rank = torch.randperm(len(groups), generator=generator).numpy()
    ranks = rank[groups[rows]]
    order = np.argsort(ranks, kind="stable")
    boundaries = np.concatenate(([0], np.flatnonzero(np.diff(ranks[order])) + 1, [len(rows)]))
    cuts: list[int] = []
    for count in counts:
        wanted = min((cuts[-1] if cuts else 0) + count, len(rows))
        cuts.append(int(boundaries[np.searchsorted(boundaries, wanted)]))
    return [np.sort(rows[part]) for part in np.split(order, cuts)]
