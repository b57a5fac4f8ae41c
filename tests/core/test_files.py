from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelmoat.core.errors import RunError
from modelmoat.core.files import (
    append_bytes,
    append_line,
    atomic_path,
    canonical_json,
    digest_of,
    disk_errors,
    read_lines,
    write_text,
)

LimitFileSize = Callable[[int], None]


@pytest.fixture
def limit_file_size() -> Iterator[LimitFileSize]:
    """Let no file of this process grow past a size: a write that crosses it is cut short by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next write through by half and refuse the one after it."""
    real, calls = os.write, iter(range(2))

    def write(descriptor: int, data: memoryview) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr("os.write", write)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "page.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (ValueError("no"), ValueError), (OSError(28, "full"), RunError)],
)
def test_a_failing_block_leaves_the_old_file(tmp_path: Path, error: BaseException, seen: type[BaseException]) -> None:
    path = tmp_path / "page.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the new o")
            raise error

    with pytest.raises(seen):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, limit_file_size: LimitFileSize) -> None:
    path = tmp_path / "page.txt"
    write_text(path, "old")
    limit_file_size(100)
    with pytest.raises(RunError, match=r"cannot write .*page\.txt: File too large; .*fix: free some space"):
        write_text(path, "x" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.EPERM, "choose a folder that you may write to"),
        (errno.EROFS, "choose a folder that you may write to"),
        (errno.EEXIST, "a file of that name is in the way, choose another folder"),
        (errno.ENOTDIR, "a file of that name is in the way, choose another folder"),
        (errno.EISDIR, "a file of that name is in the way, choose another folder"),
        (errno.EIO, "free some space or choose another folder"),
        (None, "free some space or choose another folder"),
    ],
)
def test_the_fix_fits_the_error(tmp_path: Path, number: int | None, fix: str) -> None:
    error = OSError("odd") if number is None else OSError(number, os.strerror(number))
    with pytest.raises(RunError, match=f"cannot write .*; fix: {fix}"), disk_errors(tmp_path):
        raise error


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write .*page\.txt: .*fix"):
        write_text(tmp_path / "file" / "page.txt", "text")
    with pytest.raises(RunError, match=r"cannot write .*rows\.jsonl: .*fix"):
        append_line(tmp_path / "file" / "rows.jsonl", "text")


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "made" / "rows.jsonl"
    assert read_lines(path) == []
    lines = ["one", "", "grün"]
    for line in lines:
        append_line(path, line)
    assert read_lines(path) == lines
    assert path.read_bytes() == "one\n\ngrün\n".encode()


def test_a_line_that_does_not_fit_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    append_line(path, "one")
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(RunError, match=r"rows\.jsonl: No space left on device; nothing already written was lost"):
            append_line(path, "two" * 10)
    assert path.read_bytes() == b"one\n"
    append_line(path, "three")
    assert read_lines(path) == ["one", "three"]


def test_a_write_that_the_kernel_cuts_short_leaves_no_trace(tmp_path: Path, limit_file_size: LimitFileSize) -> None:
    path = tmp_path / "rows.bin"
    path.write_bytes(b"x" * 90)
    limit_file_size(100)
    with path.open("ab") as file, pytest.raises(OSError, match="File too large"):
        append_bytes(file.fileno(), b"y" * 50)
    assert path.read_bytes() == b"x" * 90


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr("os.write", lambda descriptor, data: real(descriptor, data[:3]))
    append_line(tmp_path / "rows", "a long line")
    assert (tmp_path / "rows").read_bytes() == b"a long line\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_device_without_space_is_one_clear_error() -> None:
    with pytest.raises(RunError, match=r"cannot write /dev/full: No space left on device"):
        append_line(Path("/dev/full"), "line")


@pytest.mark.parametrize("whole", ["", "one\n", "one\ntwo\n"])
def test_a_line_cut_short_is_dropped_from_the_file(tmp_path: Path, whole: str) -> None:
    path = tmp_path / "rows"
    path.write_text(whole + "thr")
    with pytest.warns(UserWarning, match=r"rows: the last line was cut short \(3 bytes"):
        lines = read_lines(path)
    assert lines == whole.split()
    assert path.read_text() == whole
    append_line(path, "four")
    assert read_lines(path) == [*whole.split(), "four"]


def test_equal_values_have_equal_digests() -> None:
    assert canonical_json({"b": [1, None], "a": "x"}) == '{"a":"x","b":[1,null]}'
    assert digest_of({"a": 1, "b": 2.5}) == digest_of({"b": 2.5, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})
    assert digest_of({}) == "44136fa355b3678a"


def test_a_file_of_lines_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(RunError, match=r"records\.jsonl is damaged"):
        read_lines(path)
