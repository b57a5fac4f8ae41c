"""A protected victim is a folder like any other: it loads, it answers as fitted, and it refuses what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmoat.assessment import Protection, ProtectSpec, SubjectSpec, load_victim, protect
from modelmoat.core.errors import ModelError, OptionError, RunError
from modelmoat.core.records import Record
from modelmoat.data import load_splits
from modelmoat.defenses import Preparation, UtilityBudget, create_defense, parse_defense
from modelmoat.models import ModelCard, load_model
from modelmoat.victims import Victim, load_predictor


@pytest.fixture
def protected(tiny_victim: Path, tmp_path: Path) -> Callable[..., tuple[Path, Protection]]:
    """Protect the tiny victim; returns the folder and its page."""

    def build(
        defense: str = "mad:epsilon=0.5", victim: object = tiny_victim, name: str = "protected", **changes: Any
    ) -> tuple[Path, Protection]:
        data = changes.pop("data", None)
        spec = ProtectSpec(
            subject=SubjectSpec(victim=str(victim), data=data), defense=parse_defense(defense), **changes
        )
        return tmp_path / name, protect(spec, tmp_path / name)

    return build


@pytest.mark.parametrize("defense", ["mad:epsilon=0.5", "rounding:decimals=1", "mad:epsilon=0.3+top_k:k=2"])
def test_it_answers_as_the_fitted_defense_does(defense: str, protected: Callable[..., Any], tiny_victim: Path) -> None:
    folder, page = protected(defense)
    splits = load_splits("digits,pool=0.4")
    predictor = load_model(str(tiny_victim))
    ready = parse_defense(defense).prepare(Preparation(predictor=predictor, train=splits.train))
    inputs = splits.test.images[:40]
    expected = Victim(predictor, defense=ready).serve(inputs).values
    victim = load_victim(str(folder))
    assert torch.equal(victim.serve(inputs).values, expected)
    assert not torch.equal(expected, Victim(predictor).serve(inputs).values)
    assert page.defense == defense == victim.defense.spec  # type: ignore[union-attr]
    assert victim.predictor.reference == str(folder)


def test_an_int8_victim_is_protected_by_what_looks_inside_it(
    protected: Callable[..., Any], int8_victim: tuple[Path, ModelCard]
) -> None:
    folder, page = protected("queen:shadows=2,drawn=1,mapping_epochs=1,mapping_steps=2", int8_victim[0])
    assert page.model_digest == load_model(str(int8_victim[0])).digest
    inputs = load_splits("digits,pool=0.4").test.images[:40]
    served = load_victim(str(folder)).serve(inputs).values
    assert not torch.equal(served, Victim(load_model(str(int8_victim[0]))).serve(inputs).values)


def test_limits_are_kept_on_validation_images(protected: Callable[..., Any], tiny_victim: Path) -> None:
    folder, page = protected("mad", budget=UtilityBudget(max_l1=0.4, max_accuracy_drop=0.05))
    validation = load_splits("digits,pool=0.4").validation
    predictor = load_model(str(tiny_victim))
    clean = Victim(predictor).serve(validation.images).values
    served = load_victim(str(folder)).serve(validation.images).values
    l1 = float((clean - served).abs().sum(dim=1).mean())
    assert page.mean_l1 == pytest.approx(l1, abs=1e-6)
    assert 0.3 < l1 <= 0.4 + 1e-6
    assert page.calibration is not None
    assert (page.calibration.parameter, page.calibration_size) == ("mad:epsilon", len(validation))
    assert page.defense == f"mad:epsilon={page.calibration.value}"
    drop = page.clean_accuracy - page.defended_accuracy
    assert page.clean_accuracy == pytest.approx(float((clean.argmax(1) == validation.labels).double().mean()))
    assert drop <= 0.05 + 1e-6


def test_it_is_attacked_behind_its_own_defense(
    protected: Callable[..., Any], run: Callable[..., list[Record]], tiny_victim: Path, tmp_path: Path
) -> None:
    folder, page = protected("mad:epsilon=0.5")
    both = (create_defense("none"), create_defense("rounding", decimals=1))
    records = run(victim=str(folder), defenses=both, budgets=(10,))
    assert [record.defense for record in records] == [
        "none",
        "mad:epsilon=0.5",
        "mad:epsilon=0.5+rounding:decimals=1",
    ]
    bare, *records = records
    assert bare.mean_l1 == 0.0
    assert {record.victim for record in records} == {str(folder)}
    assert {record.victim_digest for record in records} != {page.model_digest}
    assert [step.spec for step in records[1].defense_steps] == ["mad:epsilon=0.5", "rounding:decimals=1"]
    assert records[1].defense_steps[0].mean_l1 == pytest.approx(records[0].mean_l1, abs=1e-6)
    assert records[1].defense_steps[1].total_l1 == pytest.approx(records[1].mean_l1, abs=1e-6)
    direct = run(tmp_path / "direct", defenses=(parse_defense("mad:epsilon=0.5"),), budgets=(10,))
    same = ("clone_accuracy", "fidelity", "mean_l1", "defended_accuracy")
    assert [getattr(records[0], name) for name in same] == [getattr(direct[0], name) for name in same]


def test_a_run_refuses_a_victim_that_was_protected_anew(
    protected: Callable[..., Any], run: Callable[..., list[Record]]
) -> None:
    first, other = protected("mad:epsilon=0.5")[0], protected("mad:epsilon=0.5", name="other", seed=1)[0]
    run(victim=str(first), budgets=(10,))
    with pytest.raises(RunError, match="holds a run with another setting"):
        run(victim=str(other), budgets=(10,))


def test_a_model_file_travels_inside_and_a_function_does_not(
    protected: Callable[..., Any], tiny_victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, page = protected("rounding")
    assert (page.model, page.inside) == ("model", True)
    moved = folder.rename(tmp_path / "moved")
    assert load_victim(str(moved)).predictor.digest == page.model_digest

    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    reference = "python:mine:model,input=1x8x8"
    _, page = protected("rounding", victim=reference, name="function", data="digits")
    assert (page.model, page.inside) == (reference, False)


def test_what_was_changed_is_refused(protected: Callable[..., Any]) -> None:
    folder, _ = protected("mad")
    state, page = folder / "defense.safetensors", folder / "protection.json"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"defense.safetensors has hash .* cut short or changed; fix: copy both"):
        load_victim(str(folder))
    state.unlink()
    with pytest.raises(ModelError, match=r"defense.safetensors"):
        load_victim(str(folder))
    state.write_bytes(whole)
    facts = json.loads(page.read_text())
    page.write_text(json.dumps(facts | {"model_digest": "0" * 16}))
    with pytest.raises(ModelError, match="it was protected as 0000000000000000; fix: restore the model"):
        load_victim(str(folder))
    page.write_text(json.dumps(facts | {"schema_version": 2}))
    with pytest.raises(ModelError, match=r"schema_version.*this version reads schema 1; fix: protect it again"):
        load_victim(str(folder))


def test_places_that_cannot_work_are_refused(protected: Callable[..., Any], tiny_victim: Path) -> None:
    folder, _ = protected("rounding")
    with pytest.raises(RunError, match=r"holds a protected victim already; fix: choose another --out"):
        protected("rounding")
    with pytest.raises(OptionError, match=r"already protected by 'rounding'; fix: .* chain 'rounding\+top_k'"):
        protected("top_k", victim=folder, name="twice")
    spec = ProtectSpec(subject=SubjectSpec(victim=str(tiny_victim)), defense=create_defense("rounding"))
    for inside in (tiny_victim, tiny_victim / "protected"):
        with pytest.raises(OptionError, match="lies in the folder of the model; fix: choose an --out folder beside"):
            protect(spec, inside)
    assert {path.name for path in tiny_victim.iterdir()} >= {"model.json", "model.safetensors"}
    assert not (tiny_victim / "protected").exists()


def test_a_step_without_a_limit_is_refused(tiny_victim: Path) -> None:
    with pytest.raises(OptionError, match="nothing to calibrate without a limit; fix: add --max-l1"):
        ProtectSpec(subject=SubjectSpec(victim=str(tiny_victim)), defense=create_defense("mad"), step="mad")


def test_a_plain_model_loads_without_a_defense(tiny_victim: Path) -> None:
    victim = load_victim(str(tiny_victim))
    assert victim.defense is None
    assert victim.predictor.digest == load_predictor(str(tiny_victim)).digest
