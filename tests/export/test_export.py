from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from modelmoat.assessment import ProtectSpec, SubjectSpec, load_victim, protect
from modelmoat.core.errors import ModelError, OptionError
from modelmoat.data import Splits, load_splits
from modelmoat.defenses import parse_defense
from modelmoat.export import Exported
from modelmoat.metrics import agreement
from modelmoat.models import load_model
from modelmoat.training import as_float
from modelmoat.victims import Victim

Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits("digits,pool=0.4")


def answers(victim: object, images: torch.Tensor) -> torch.Tensor:
    """What is served, in other batches than the export was checked with."""
    parts = [load_victim(str(victim)).serve(as_float(part)).values for part in images.split(50)]
    return torch.cat(parts)


@pytest.mark.slow
def test_a_fitted_defense_answers_alike_from_its_file(
    export_victim: Export, tiny_victim: Path, digits: Splits, tmp_path: Path
) -> None:
    """Model and fitted defense, on images that the export has not looked at."""
    spec = ProtectSpec(subject=SubjectSpec(victim=str(tiny_victim)), defense=parse_defense("mad:epsilon=0.4"))
    protect(spec, tmp_path / "protected")
    found = export_victim(tmp_path / "protected")
    assert (found.defense, found.int8, found.agreement) == ("mad:epsilon=0.4", False, 1.0)
    assert found.accuracy == found.victim_accuracy
    assert digits.pool is not None
    torch.testing.assert_close(
        answers(found.path, digits.pool.images), answers(tmp_path / "protected", digits.pool.images), atol=1e-5, rtol=0
    )
    clean = answers(tiny_victim, digits.pool.images)
    assert float((answers(found.path, digits.pool.images) - clean).abs().sum(1).mean()) > 0.2


def test_int8_answers_are_close_and_the_file_is_small(
    int8_file: Exported, tiny_victim: Path, protected: Path, digits: Splits
) -> None:
    """Of a protected victim with a further defense, on images that the export has not looked at."""
    assert (int8_file.int8, int8_file.defense) == (True, "reverse_sigmoid:beta=0.6+top_k:k=4")
    assert int8_file.size == int8_file.path.stat().st_size < (tiny_victim / "model.safetensors").stat().st_size / 3
    assert int8_file.agreement >= 0.99
    assert int8_file.images == len(digits.test)
    assert digits.pool is not None
    served = answers(int8_file.path, digits.pool.images)
    exact = parse_defense("top_k:k=4").perturb(answers(protected, digits.pool.images))
    assert torch.equal((served > 0).sum(dim=1), torch.full((len(served),), 4))
    assert float(agreement(exact, served).float().mean()) >= 0.98
    assert float((exact - served).abs().sum(dim=1).mean()) < 0.05


def test_a_file_says_what_it_is(int8_file: Exported, digits: Splits) -> None:
    predictor = load_model(str(int8_file.path))
    assert predictor.outputs == "probabilities", "though its last operator is no softmax"
    assert predictor.class_names == digits.train.class_names
    assert predictor.digest == int8_file.digest
    assert predictor.input_shape == (1, 8, 8)
    timed = {"victim", "file"} | ({"file by openvino"} if find_spec("openvino") else set())
    assert set(int8_file.latency_ms) == {f"{who} batch {size}" for who in timed for size in (1, 64)}


def test_openvino_answers_alike_for_one_image_and_many(int8_file: Exported, digits: Splits) -> None:
    pytest.importorskip("openvino")
    predictor = load_model(f"{int8_file.path},runtime=openvino")
    inputs = as_float(digits.test.images[:60])
    many = predictor.predict(inputs)
    torch.testing.assert_close(torch.cat([predictor.predict(row[None]) for row in inputs[:20]]), many[:20])
    assert float(agreement(many, load_model(str(int8_file.path)).predict(inputs)).float().mean()) >= 0.95


@pytest.mark.slow
def test_an_int8_victim_is_exported_as_it_is(
    export_victim: Export, tiny_victim: Path, tmp_path: Path, digits: Splits
) -> None:
    pytest.importorskip("torchao")
    from modelmoat.recipes import TrainingJob, create_recipe, train_victim
    from modelmoat.training import FitSettings

    job = TrainingJob(
        splits=digits,
        data="digits,pool=0.4",
        data_seed=0,
        arch="small_cnn",
        fit=FitSettings(epochs=1),
        seed=0,
        directory=tmp_path / "int8",
    )
    train_victim(create_recipe("ptq", start=str(tiny_victim), weight_bits=5), job)
    found = export_victim(tmp_path / "int8", defense="rounding:decimals=3")
    assert found.int8
    expected = Victim(load_model(str(tmp_path / "int8")), defense=parse_defense("rounding:decimals=3"))
    torch.testing.assert_close(
        answers(found.path, digits.test.images), expected.serve(digits.test.images).values, atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ("queen", "defense 'queen' remembers earlier queries, which a graph cannot; fix: "),
        ("dcp+random_noise:repeats=fresh", "defense 'random_noise:repeats=fresh' remembers earlier queries"),
        ("mad:layers=all", "defense 'mad:layers=all' does more than a graph can hold; fix: "),
    ],
)
def test_defenses_that_a_graph_cannot_hold_are_named(export_victim: Export, defense: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        export_victim(defense=defense)


def test_operators_that_onnx_lacks_are_named(export_victim: Export, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError,
        match=r"'random_noise:strength=0.1' cannot be written as ONNX: uses aten.view, which ONNX does not have; fix: ",
    ):
        export_victim(defense="random_noise:strength=0.1", out=tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_answers_are_off_is_not_left_there(
    export_victim: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scrambled(images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(images.flatten(1)[:, :10], dim=1)

    monkeypatch.setattr("modelmoat.export.run.Served", lambda *_: _Module(scrambled))
    with pytest.raises(
        ModelError, match=r"the victim's top-1 on \d+\.\d\d% of 200 test images; expected at least 100.00%; fix"
    ):
        export_victim(out=tmp_path / "model.onnx", images=200)
    assert list(tmp_path.iterdir()) == []


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._function(images)


def test_a_victim_without_a_network_is_refused(export_victim: Export, int8_file: Exported) -> None:
    with pytest.raises(
        ModelError, match=r"model.onnx' \(small_cnn\) has no torch network to export; fix: give an artifact"
    ):
        export_victim(int8_file.path, data="digits,pool=0.4")


def test_layers_that_cannot_be_quantized_are_named(
    export_victim: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_victim.py").write_text(
        "import torch\n"
        "def build():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 10)).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"layers that cannot be quantized: 1 \(layer_norm\); "):
        export_victim("python:odd_victim:build", data="digits,pool=0.4", int8=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": Path("model.pt")}, r"--out model.pt: expected a file that ends in .onnx; fix: --out model.onnx"),
        ({"images": 0}, "images=0: expected at least 1"),
        ({"min_agreement": 1.5}, r"min_agreement=1.5: expected a share in \[0, 1\]"),
        ({"calibration_images": 0}, "calibration_images=0: expected at least 1"),
    ],
)
def test_impossible_options_are_refused(export_victim: Export, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        export_victim(**options)
