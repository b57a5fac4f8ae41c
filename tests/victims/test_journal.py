from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmoat.core.errors import RunError
from modelmoat.victims import Journal
from modelmoat.victims.hashing import input_keys
from modelmoat.victims.journal import Frame

OWNER = {"victim": "aa", "defense": "none", "output": "probabilities", "classes": 3}


def frame(account: str, first: int, count: int) -> Frame:
    images = torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1)
    rows = torch.rand(count, 3, generator=torch.Generator().manual_seed(first))
    return Frame(account, input_keys(images), rows)


FRAMES = [frame("ann", 0, 3), frame("bjørn", 3, 1), frame("", 4, 2)]


def written(path: Path, frames: list[Frame] = FRAMES) -> list[int]:
    """Write frames and return the size of the file after each of them."""
    journal, sizes = Journal(path, OWNER), []
    for item in frames:
        journal.append(item)
        sizes.append(path.stat().st_size)
    return sizes


def opened(path: Path) -> list[Frame]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Journal(path, OWNER).frames


def assert_equal(found: list[Frame], expected: list[Frame]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.account == other.account
        assert one.keys.tobytes() == other.keys.tobytes()
        assert torch.equal(one.rows, other.rows)


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "made" / "a.journal"
    assert opened(path) == []
    assert not path.exists()
    written(path)
    assert_equal(opened(path), FRAMES)
    Journal(path, OWNER).append(frame("cy", 9, 2))
    assert_equal(opened(path), [*FRAMES, frame("cy", 9, 2)])
    assert json.loads(path.read_bytes().partition(b"\n")[0])["owner"] == OWNER


def test_a_journal_cut_anywhere_in_its_last_frame_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    _, before, end = written(path)
    raw = path.read_bytes()
    for cut in range(before + 1, end):
        path.write_bytes(raw[:cut])
        with pytest.warns(UserWarning, match=rf"the last batch was cut short \({cut - before} bytes\)"):
            journal = Journal(path, OWNER)
        assert_equal(journal.frames, FRAMES[:2])
        assert path.stat().st_size == before
    journal.append(FRAMES[2])
    assert path.read_bytes() == raw


def test_a_journal_cut_anywhere_before_its_first_whole_frame_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    (end,) = written(path, FRAMES[:1])
    raw = path.read_bytes()
    header = raw.index(b"\n") + 1
    for cut in range(1, end):
        path.write_bytes(raw[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            journal = Journal(path, OWNER)
        assert journal.frames == []
        assert len(caught) == (cut != header)
        if cut in (1, header - 1, header, header + 1, end - 1):
            journal.append(FRAMES[0])
            assert path.read_bytes() == raw


def refused(path: Path, raw: bytes, at: int) -> None:
    path.write_bytes(raw)
    words = (
        rf"a\.journal is damaged: the batch at byte {at:,} of {len(raw):,} .*; fix: move the file away .* or restore"
    )
    with pytest.raises(RunError, match=words):
        Journal(path, OWNER)
    assert path.read_bytes() == raw


def test_a_flipped_byte_before_the_last_frame_is_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    first, second, _ = written(path)
    raw = path.read_bytes()
    start = raw.index(b"\n") + 1
    for place in range(start, second):
        at = start if place < first else first
        refused(path, raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :], at)


def test_a_last_frame_that_is_damaged_up_to_the_end_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    _, before, end = written(path)
    raw = path.read_bytes()
    for place in (before, before + 12, before + 16, end - 1):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :])
        with pytest.warns(UserWarning, match="dropped and asked again"):
            assert_equal(Journal(path, OWNER).frames, FRAMES[:2])
        assert path.stat().st_size == before


def test_a_frame_followed_by_something_else_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    _, _, end = written(path)
    raw = path.read_bytes()
    refused(path, raw + b"MMJ1" + b"\0" * 8 + b"\1" * 20, end)
    refused(path, raw[:-1] + b"\xaa" + b"tail", end - 16 - 2 * (16 + 12))


@pytest.mark.parametrize("kept", [0, 4, 16, 20, 70])
def test_zeros_that_a_crash_left_for_the_last_frame_are_dropped(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.journal"
    _, before, end = written(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: before + kept] + b"\0" * (end - before - kept))
    with pytest.warns(UserWarning, match=rf"cut short \({end - before} bytes\)"):
        assert_equal(Journal(path, OWNER).frames, FRAMES[:2])
    assert path.read_bytes() == raw[:before]


def test_a_first_write_that_a_crash_left_as_zeros_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    (end,) = written(path, FRAMES[:1])
    path.write_bytes(b"\0" * end)
    with pytest.warns(UserWarning, match=rf"cut short \({end} bytes\)"):
        assert Journal(path, OWNER).frames == []
    assert path.stat().st_size == 0


@pytest.mark.parametrize("change", [{"victim": "bb"}, {"defense": "top_k:k=1"}, {"output": "label"}])
def test_another_owners_journal_is_refused_and_kept(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.journal"
    written(path)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"a\.journal holds answers of .*victim aa, not of .*fix: use another --out"):
        Journal(path, OWNER | change)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\n",
        b"{}\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"format": "other", "owner": {"classes": 3}}\n',
        b'{"format": "modelmoat-journal", "owner": {"classes": "x"}}\n',
        b'{"format": "modelmoat-journal", "owner": 3}\n',
    ],
)
def test_another_file_is_refused_and_kept(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(raw)
    with pytest.raises(RunError, match=r"a\.journal is not a journal of answers: its first line is"):
        Journal(path, OWNER)
    assert path.read_bytes() == raw


@pytest.mark.parametrize("first", [True, False])
def test_a_full_disk_leaves_a_readable_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    path = tmp_path / "a.journal"
    earlier = [] if first else FRAMES[:2]
    written(path, earlier)
    journal, real, calls = Journal(path, OWNER), os.write, iter(range(2))

    def half(descriptor: int, data: memoryview) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("os.write", half)
        with pytest.raises(RunError, match=r"cannot write .*a\.journal: No space left on device; .*fix"):
            journal.append(FRAMES[2])
    assert_equal(opened(path), earlier)
    journal.append(FRAMES[2])
    assert_equal(opened(path), [*earlier, FRAMES[2]])


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    journal = Journal(tmp_path / "other" / "a.journal", OWNER)
    (tmp_path / "other").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write .*a\.journal: .*fix"):
        journal.append(FRAMES[0])
