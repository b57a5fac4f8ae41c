from __future__ import annotations

from pathlib import Path

import pytest

from modelmoat.core.errors import RunError
from modelmoat.core.locks import locked


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "made" / "run"
    with locked(path):
        with pytest.raises(RunError, match=r"run is in use by another .*; fix"), locked(path):
            pass
        with locked(tmp_path / "other"):
            pass
    with pytest.raises(ValueError, match="inside"), locked(path):
        raise ValueError("inside")
    with locked(path):
        pass


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file is a file, not a folder; fix"), locked(tmp_path / "file"):
        pass
    words = r"cannot write .*run: Not a directory; .*fix: a file of that name is in the way, choose another folder"
    with pytest.raises(RunError, match=words), locked(tmp_path / "file" / "run"):
        pass


def test_errors_inside_are_not_those_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), locked(tmp_path):
        raise PermissionError(13, "Permission denied")
