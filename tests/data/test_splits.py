from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmoat.core.seeds import generator
from modelmoat.data.splits import draw, first_occurrences, share_of


def test_first_occurrences_point_to_the_first_equal_row() -> None:
    hashes = np.array([b"q", b"a", b"q", b"z", b"a", b"q"], dtype="S16")
    assert first_occurrences(hashes).tolist() == [0, 1, 0, 3, 1, 0]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 70), st.integers(0, 99)
)
@settings(max_examples=150, deadline=None)
def test_draws_are_a_partition_that_keeps_groups_whole(kinds: list[int], first: int, second: int, seed: int) -> None:
    groups = first_occurrences(np.array([str(kind).encode() for kind in kinds], dtype="S16"))
    rows = np.arange(len(kinds))
    parts = draw(rows, groups, [first, second], generator(seed, "test"))
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    owners = [{int(groups[row]) for row in part} for part in parts]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]
    largest = int(np.bincount(groups).max())
    assert min(first, len(rows)) <= len(parts[0]) < min(first, len(rows)) + largest


@given(st.integers(1, 200), st.integers(0, 50), st.integers(0, 50), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_without_duplicates_sizes_are_exact_and_the_first_part_ignores_the_second(
    total: int, first: int, second: int, seed: int
) -> None:
    rows = np.arange(total)
    parts = draw(rows, rows, [first, second], generator(seed, "test"))
    assert len(parts[0]) == min(first, total)
    assert len(parts[1]) == min(second, total - len(parts[0]))
    alone = draw(rows, rows, [first], generator(seed, "test"))
    assert alone[0].tolist() == parts[0].tolist()


def test_draws_take_rows_from_everywhere() -> None:
    part = draw(np.arange(10_000), np.arange(10_000), [1000], generator(3, "test"))[0]
    assert 4500 < part.mean() < 5500


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_share_above_zero_is_at_least_one_row(total: int, share: float) -> None:
    count = share_of(total, share)
    assert 0 <= count <= total
    assert (count == 0) == (share == 0)
    assert abs(count - total * share) <= 1
