"""An exported file says what it is, and is attacked as such."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelmoat.assessment import AssessmentSpec, ProtectSpec, SubjectSpec, assess, load_subject, protect, set_scene
from modelmoat.attacks import create_attack
from modelmoat.core.errors import ModelError, OptionError, RunError
from modelmoat.defenses import parse_defense
from modelmoat.export import Exported
from modelmoat.models import Origin, load_model, origin_of_file
from modelmoat.models.onnx_writer import FACTS
from modelmoat.report import write_report
from modelmoat.training import FitSettings

Export = Callable[..., Exported]
DATA = "digits,pool=0.4"


def spec(victim: Path, **changes: Any) -> AssessmentSpec:
    values: dict[str, Any] = {
        "pool": f"{DATA},split=pool",
        "attacks": (create_attack("knockoff"),),
        "defenses": (parse_defense("none"),),
        "budgets": (10,),
        "clone_fit": FitSettings(epochs=1, min_steps=5, lr=0.05, precision="float32"),
    }
    return AssessmentSpec(victim=str(victim), **(values | changes))


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def hardened(tiny_victim: Path, tmp_path: Path) -> Path:
    """The tiny victim, whose card says that it was trained with other images too."""
    folder = shutil.copytree(tiny_victim, tmp_path / "hardened")
    card = json.loads((folder / "model.json").read_text())
    card |= {"ood": "photo-patches,grey,n=5000,size=8", "recipe": "ini"}
    card["data_digests"]["ood"] = "0" * 16
    (folder / "model.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def plain(export_victim: Export) -> Exported:
    """The tiny victim without a defense."""
    return export_victim()


@pytest.fixture(scope="module")
def defended(export_victim: Export) -> Exported:
    """The tiny victim with a defense inside."""
    return export_victim(defense="top_k:k=2")


@pytest.fixture
def with_origin(plain: Exported, tmp_path: Path) -> Callable[[object], Path]:
    """A copy of the plain file with another origin in its metadata; None for files written before there was one."""
    onnx = pytest.importorskip("onnx")

    def write(origin: object) -> Path:
        model = onnx.load(str(plain.path))
        (entry,) = [entry for entry in model.metadata_props if entry.key == FACTS]
        facts = json.loads(entry.value)
        entry.value = json.dumps({**facts, "victim": origin})
        if origin is None:
            entry.value = json.dumps({key: value for key, value in facts.items() if key != "victim"})
        onnx.save(model, str(tmp_path / "changed.onnx"))
        return tmp_path / "changed.onnx"

    return write


def test_a_file_says_where_its_victim_comes_from(export_victim: Export, hardened: Path) -> None:
    found = export_victim(hardened, defense="rounding:decimals=1")
    splits = load_subject(SubjectSpec(victim=str(hardened))).splits
    assert origin_of_file(found.path) == Origin(
        arch="small_cnn",
        recipe="ini",
        data=DATA,
        data_seed=0,
        data_digests={"train": splits.train.digest, "test": splits.test.digest, "ood": "0" * 16},
        ood="photo-patches,grey,n=5000,size=8",
        defense="rounding:decimals=1",
    )
    assert str(hardened).encode() not in found.path.read_bytes()
    predictor = load_model(str(found.path))
    assert (predictor.arch, predictor.recipe) == ("small_cnn", "ini behind rounding:decimals=1")


def test_the_same_victim_gives_the_same_file(plain: Exported, export_victim: Export, tiny_victim: Path) -> None:
    moved = shutil.copytree(tiny_victim, plain.path.parent / "moved")
    assert export_victim(moved).path.read_bytes() == plain.path.read_bytes()


def test_the_defense_of_a_protected_victim_is_inside(int8_file: Exported) -> None:
    origin = origin_of_file(int8_file.path)
    assert origin is not None
    assert (origin.defense, origin.recipe) == ("reverse_sigmoid:beta=0.6+top_k:k=4", "standard")


def test_a_file_brings_its_data_and_the_architecture_of_clones(plain: Exported, tiny_victim: Path) -> None:
    with silence():
        scene, own = set_scene(spec(plain.path)), set_scene(spec(tiny_victim))
    assert (scene.subject.data, scene.subject.data_seed, scene.clone_arch) == (DATA, 0, "small_cnn")
    assert scene.test.digest == own.test.digest
    assert scene.subject.inside is None
    with_more = set_scene(
        spec(plain.path, data="digits,pool=0.5", pool="digits,pool=0.4,split=pool", drop_overlap=True)
    )
    assert with_more.subject.data == "digits,pool=0.5"


def test_a_file_brings_the_seed_of_its_splits(with_origin: Callable[[object], Path]) -> None:
    origin = Origin(arch="Model", recipe="external", data=DATA, data_seed=3)
    subject = load_subject(SubjectSpec(victim=f"{with_origin(origin.model_dump())},outputs=probabilities"))
    assert (subject.data, subject.data_seed, subject.predictor.arch) == (DATA, 3, "Model")
    assert load_subject(SubjectSpec(victim=str(with_origin(origin.model_dump())), data_seed=5)).data_seed == 5


def test_data_that_changed_since_the_export_are_refused(with_origin: Callable[[object], Path]) -> None:
    origin = Origin(arch="small_cnn", recipe="standard", data=DATA, data_digests={"test": "0" * 16})
    with pytest.raises(RunError, match=r"'digits,pool=0.4' has changed since the victim was trained: its test images"):
        set_scene(spec(with_origin(origin.model_dump())))


def test_a_file_that_does_not_say_needs_data_and_an_architecture(with_origin: Callable[[object], Path]) -> None:
    """As files of earlier versions and of others do."""
    file = with_origin(None)
    assert origin_of_file(file) is None
    with pytest.raises(OptionError, match="does not say which data it was trained on; fix: add --data REF"):
        set_scene(spec(file))
    with silence():
        scene = set_scene(spec(file, data=DATA, clone_arch="small_cnn"))
    assert (scene.predictor.arch, scene.predictor.recipe) == ("onnx", "external")


def test_a_damaged_origin_is_refused_and_what_is_new_in_it_is_not(with_origin: Callable[[object], Path]) -> None:
    with pytest.raises(ModelError, match=r"metadata 'modelmoat' is damaged \(victim.recipe: Field required\); fix: "):
        set_scene(spec(with_origin({"arch": "small_cnn"})))
    later = with_origin({"arch": "small_cnn", "recipe": "standard", "data": DATA, "licence": "none"})
    assert set_scene(spec(later)).subject.data == DATA


def test_a_defense_inside_is_said_before_and_after(defended: Exported, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"the defense 'top_k:k=2' inside, .* 'none' is the file as it is, .*; fix: "):
        records = assess(spec(defended.path), tmp_path / "run")
    assert {(r.defense, r.defense_inside, r.victim_recipe) for r in records} == {
        ("none", "top_k:k=2", "standard behind top_k:k=2")
    }
    page = write_report(tmp_path / "run").read_text()
    assert "The victim’s file has top_k:k=2 inside. “None” and “undefended” stand for the file as it is" in page


def test_a_file_that_is_protected_once_more_still_has_its_defense_inside(defended: Exported, tmp_path: Path) -> None:
    further = ProtectSpec(subject=SubjectSpec(victim=str(defended.path)), defense=parse_defense("rounding:decimals=1"))
    with pytest.warns(UserWarning, match="the defense 'top_k:k=2' inside"):
        protect(further, tmp_path / "protected")
    subject = load_subject(SubjectSpec(victim=str(tmp_path / "protected")))
    assert subject.inside == "top_k:k=2"
    assert subject.own is not None
    assert subject.own.spec == "rounding:decimals=1"


def test_a_pool_that_its_victim_was_hardened_with_is_told_to_flatter(export_victim: Export, hardened: Path) -> None:
    file = export_victim(hardened).path
    with pytest.warns(UserWarning, match="that ini was trained with: the result flatters the victim; fix"):
        set_scene(spec(file, pool="photo-patches,grey,n=60,size=8"))
    with silence():
        set_scene(spec(file))
