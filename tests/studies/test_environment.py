from __future__ import annotations

import os

import pytest

from modelmoat.data import load
from modelmoat.data.storage import LIMIT_VARIABLE
from modelmoat.studies.environment import environment, shared_images


def test_variables_are_set_and_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWN", "before")
    with environment({"KNOWN": "inside", "OTHER": "inside"}):
        assert (os.environ["KNOWN"], os.environ["OTHER"]) == ("inside", "inside")
    assert os.environ["KNOWN"] == "before"
    assert "OTHER" not in os.environ


def test_images_of_a_study_are_mapped_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    apart = load("digits")
    with shared_images():
        mapped = load("digits")
    assert (apart.mapped, mapped.mapped) == (False, True)
    assert mapped.digest == apart.digest
    monkeypatch.setenv(LIMIT_VARIABLE, "1GB")
    with shared_images():
        assert not load("digits").mapped
