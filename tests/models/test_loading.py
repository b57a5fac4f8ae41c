import sys
import types

import pytest
import torch
from torch import nn

from modelmoat.core.errors import InvalidAnswer, ModelError, OptionError, UnknownReference
from modelmoat.models import ModelCard, TorchPredictor, load_model, save_model


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "timm")):
            del sys.modules[name]


@pytest.fixture
def artifact(here, network):
    card = ModelCard.of(network, class_names=("a", "b", "c"), recipe="standard")
    save_model(here / "runs" / "victim", network, card)
    return "runs/victim"


def test_artifact(artifact, network, images):
    predictor = load_model(artifact)
    assert isinstance(predictor, TorchPredictor)
    assert (predictor.arch, predictor.recipe, predictor.class_names) == ("small_cnn", "standard", ("a", "b", "c"))
    assert predictor.reference == artifact
    assert len(predictor.digest) == 16
    torch.testing.assert_close(predictor.predict(images), network(images).detach())


def test_artifact_for_other_images(artifact):
    with pytest.raises(ModelError, match=r"takes images of shape \[1, 8, 8\]"):
        load_model(artifact, input_shape=(1, 28, 28))
    with pytest.raises(ModelError, match=r"not \[1, 9, 9\]"):
        load_model(artifact + ",input=1x9x9")
    with pytest.raises(OptionError, match="an artifact gives logits"):
        load_model(artifact, outputs="probabilities")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("runs/victm", "did you mean 'runs/victim'"),
        ("rusn/victim", "did you mean 'runs'"),
        ("nothing-like-it", "Possible: an artifact folder"),
        ("nothing-like-it", r"FILE\.pt2 .*--allow-pickle.*python:module:function, timm:NAME, or replay:FILE"),
        ("", "model '': the reference is empty. Possible: an artifact folder"),
        (" ,input=1x8x8", "the reference is empty. Possible"),
        ("runs/victim/model.safetensors", "give its folder, 'runs/victim'"),
        ("notes.txt", "no model file by its ending '.txt'"),
    ],
)
def test_references_that_name_nothing(here, artifact, reference, words):
    (here / "notes.txt").write_text("hello")
    with pytest.raises(UnknownReference, match=words):
        load_model(reference)


def test_a_folder_that_is_no_artifact(here, artifact):
    with pytest.raises(ModelError, match=r"'runs' is not a model artifact: it has no model\.json"):
        load_model("runs")


def test_a_training_that_has_not_ended_is_no_artifact_yet(here, artifact):
    (here / "runs" / "checkpoint.safetensors").touch()
    with pytest.raises(
        ModelError, match=r"'runs' holds a training that has not ended: .*; fix: run its 'modelmoat train'"
    ):
        load_model("runs")


def test_a_runtime_for_what_is_not_in_onnx_is_refused(here, artifact):
    with pytest.raises(OptionError, match="is run by torch; fix: leave out runtime=openvino, or give what is in ONNX"):
        load_model("runs/victim,runtime=openvino")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (",output=logits", "did you mean 'outputs'"),
        (",outputs=logit", "did you mean 'logits'"),
        (",probabilities", "not key=value"),
        (",input=32", "such as input=3x32x32"),
        (",input=3x0x32", "such as input=3x32x32"),
    ],
)
def test_wrong_options(artifact, options, words):
    with pytest.raises(OptionError, match=words):
        load_model(artifact + options)


@pytest.mark.parametrize("reference", ["http://localhost:8000", "https://example.org/model"])
def test_http_is_said_to_be_missing(reference):
    with pytest.raises(ModelError, match="not available in this version"):
        load_model(reference)


def test_recorded_answers_are_a_victim():
    with pytest.raises(ModelError, match=r"fix: use load_predictor"):
        load_model("replay:a.npz")


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("suffix", ["pt", "pth", "pkl", "bin", "pt2"])
def test_files_that_can_run_code_are_refused_unopened(here, suffix):
    (here / f"m.{suffix}").write_bytes(b"anything")
    with pytest.raises(ModelError, match="pass --allow-pickle"):
        load_model(f"m.{suffix}")
    with pytest.raises(ModelError, match=r"cannot be opened|not a program"):
        load_model(f"m.{suffix}", allow_pickle=True)


def test_pickled_module(here, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_tiny", types.SimpleNamespace(Tiny=Tiny))
    monkeypatch.setattr(Tiny, "__module__", "my_tiny")
    model = Tiny()
    torch.save(model, "m.pt")
    predictor = load_model("m.pt", allow_pickle=True, input_shape=(1, 8, 8))
    assert predictor.arch == "Tiny"
    torch.testing.assert_close(predictor.predict(images), model(images).detach())


@pytest.mark.parametrize(
    ("value", "words"), [(nn.Linear(2, 2).state_dict(), "state dict .2 entries."), ([1, 2], "holds list")]
)
def test_pickled_other_things(here, value, words):
    torch.save(value, "m.pt")
    with pytest.raises(ModelError, match=words):
        load_model("m.pt", allow_pickle=True)


def exported(module, path, *, rows, dynamic):
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(module, (torch.rand(rows, 1, 8, 8),), dynamic_shapes=shapes), path)


@pytest.mark.parametrize("dynamic", [True, False])
def test_exported_program(here, network, images, dynamic):
    exported(network, "m.pt2", rows=3, dynamic=dynamic)
    predictor = load_model("m.pt2", allow_pickle=True)
    assert (predictor.num_classes, predictor.input_shape, predictor.arch) == (3, (1, 8, 8), "pt2")
    torch.testing.assert_close(predictor.predict(images), network(images).detach())
    with pytest.raises(ModelError, match=r"not \[3, 8, 8\]"):
        load_model("m.pt2", allow_pickle=True, input_shape=(3, 8, 8))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(64)])
def test_a_program_exported_in_training_mode_is_refused(here, layer):
    exported(nn.Sequential(nn.Flatten(), layer, nn.Linear(64, 3)).train(), "m.pt2", rows=3, dynamic=False)
    with pytest.raises(ModelError, match="training mode"):
        load_model("m.pt2", allow_pickle=True)


MODULE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def function():
    return lambda x: x.flatten(1)[:, :3] * 5 - 2

def nothing():
    return 3

def needy(path):
    return path

def crash():
    raise ValueError("no such checkpoint")

def wrong():
    return lambda x: {"logits": x}

weights = [1, 2]
"""


@pytest.fixture
def module(here):
    (here / "my_models.py").write_text(MODULE)
    return here


def test_python_module(module, images):
    first = load_model("python:my_models:build", input_shape=(1, 8, 8))
    again = load_model("python:my_models:build,input=1x8x8")
    assert first.num_classes == 3
    assert first.digest == again.digest
    assert torch.equal(first.predict(images), again.predict(images))


def test_python_function(module, images):
    predictor = load_model("python:my_models:function", input_shape=(1, 8, 8))
    assert predictor.arch == "function"
    torch.testing.assert_close(predictor.predict(images), images.flatten(1)[:, :3] * 5 - 2)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("my_models", UnknownReference, "write python:module:function"),
        ("my_model:build", UnknownReference, "did you mean 'my_models'"),
        ("my_models:biuld", UnknownReference, "did you mean 'build'"),
        ("my_models:weights", ModelError, "is list, not a function"),
        ("my_models:nothing", ModelError, "returned int"),
        ("my_models:needy", ModelError, "called without arguments"),
        ("my_models:crash", ModelError, "no such checkpoint"),
        ("my_models:wrong", InvalidAnswer, "returned dict"),
    ],
)
def test_python_mistakes(module, place, error, words):
    with pytest.raises(error, match=words):
        load_model(f"python:{place}", input_shape=(1, 8, 8))


def test_a_python_module_that_fails_to_import_says_why(here):
    (here / "my_broken.py").write_text("import my_absent_dependency\n")
    with pytest.raises(ModelError, match=r"importing 'my_broken' fails.*my_absent_dependency"):
        load_model("python:my_broken:build")


def fake_timm(known=("resnet18", "vit_tiny")):
    def create_model(name, *, pretrained):
        assert pretrained
        model = Tiny()
        model.num_classes = 3
        model.pretrained_cfg = {"mean": (0.5,), "std": (0.25,), "input_size": (1, 8, 8)}
        return model

    return types.SimpleNamespace(
        is_model=lambda name: name in known, list_models=lambda: list(known), create_model=create_model
    )


def test_timm_models_get_normalized_images(here, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", fake_timm())
    predictor = load_model("timm:resnet18.a1_in1k")
    assert (predictor.arch, predictor.input_shape) == ("resnet18.a1_in1k", (1, 8, 8))
    expected = predictor.network.body((images - 0.5) / 0.25).detach()
    torch.testing.assert_close(predictor.predict(images), expected)


def test_timm_mistakes(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", fake_timm())
    with pytest.raises(UnknownReference, match="did you mean 'resnet18'"):
        load_model("timm:resnet81")


def test_timm_missing_or_broken(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"pip install 'modelmoat\[timm\]'"):
        load_model("timm:resnet18")
    monkeypatch.delitem(sys.modules, "timm")
    (here / "timm.py").write_text("raise AttributeError('built for another torch')\n")
    monkeypatch.syspath_prepend(here)
    with pytest.raises(ModelError, match="installed but fails to import: AttributeError: built for another torch"):
        load_model("timm:resnet18")
