"""``modelmoat protect``: what it prints, what it writes, and that the result is attacked like any victim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelmoat.core.records import read_records


def test_a_protected_folder_is_assessed_like_any_other(
    modelmoat: Callable, assess: Callable, tiny_victim: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "protected"
    done = modelmoat("protect", tiny_victim, "--defense", "reverse_sigmoid", "--max-l1", "0.3", "--out", folder)
    assert (done.code, done.err) == (0, "")
    page = json.loads((folder / "protection.json").read_text())
    assert f"behind {page['defense']};" in done.out
    assert f"Next: modelmoat assess {folder}" in done.out
    assert assess(victim=folder).code == 0
    records = read_records(tmp_path / "run")
    assert [record.defense for record in records] == [*["none"] * 2, *["label_only"] * 2, *[page["defense"]] * 2]
    assert records[0].mean_l1 == 0.0
    assert 0.1 < records[-1].mean_l1 < 0.45, "calibrated on validation images, measured on test images"


def test_json_is_the_page(modelmoat: Callable, tiny_victim: Path, tmp_path: Path) -> None:
    folder = tmp_path / "protected"
    done = modelmoat("protect", tiny_victim, "--defense", "rounding", "--out", folder, "--json")
    assert json.loads(done.out) == json.loads((folder / "protection.json").read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--defense", "mad", "--max-l1", "3"], "--max-l1 3.0: expected 0 to 2"),
        (["--defense", "mad", "--max-accuracy-drop", "-1"], "--max-accuracy-drop -1.0: expected 0 to 1"),
        (["--defense", "mad", "--calibrate", "mad"], "--calibrate mad: nothing to calibrate without a limit"),
        (["--defense", "label_only", "--max-l1", "0.5"], "'label_only' has no parameter to calibrate"),
        (["--defense", "mad", "--images", "0"], "--images 0: expected at least 1"),
        (["--defense", "made"], "did you mean 'mad'"),
    ],
)
def test_misuse(options: list[str], words: str, modelmoat: Callable, tiny_victim: Path, tmp_path: Path) -> None:
    done = modelmoat("protect", tiny_victim, *options, "--out", tmp_path / "protected")
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "protected" / "protection.json").exists()
