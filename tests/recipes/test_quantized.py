from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchao")

from modelmoat.core.errors import DataError, ModelError, OptionError
from modelmoat.data import Splits
from modelmoat.models import Classifier, ModelCard, create_network, load_artifact, load_card, load_model
from modelmoat.quantization import Simulated, restore_simulated, simulated_form
from modelmoat.recipes import Recipe, TrainingJob, create_recipe, train_victim
from modelmoat.recipes._quantized import QuantizedFit
from modelmoat.training import as_float, predict_logits

from .conftest import Killed, MakeJob, Stopwatch

TrainSimulated = Callable[..., QuantizedFit]


def network_of(job: TrainingJob) -> Classifier:
    return create_network(job.arch, num_classes=10, input_shape=(1, 8, 8), seed=0, mean=(0.3,), std=(0.4,))


def run(recipe: Recipe, job: TrainingJob) -> Simulated:
    """Train without converting, which takes most of the time of a small victim."""
    result = recipe.train(network_of(job), job)
    assert isinstance(result, QuantizedFit)
    assert result.simulated is not None
    return result.simulated


def same(first: Simulated, second: Simulated) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_int8_victim_is_a_victim_like_any_other(int8_victim: tuple[Path, ModelCard], digits: Splits) -> None:
    folder, card = int8_victim
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        "model.json",
        "model.onnx",
        "model.safetensors",
    ]
    predictor = load_model(str(folder))
    assert (predictor.arch, predictor.recipe, predictor.outputs) == ("small_cnn", card.recipe, "logits")
    assert predictor.class_names == digits.train.class_names
    for name in ("validation", "test"):
        images = getattr(digits, name)
        hits = predictor.predict(as_float(images.images)).argmax(dim=1) == images.labels
        assert card.metrics[f"{name}_accuracy"] == pytest.approx(float(hits.double().mean()), abs=1e-6)


def test_its_card_says_what_conversion_did(
    int8_victim: tuple[Path, ModelCard], digits: Splits, tiny_victim: Path
) -> None:
    folder, card = int8_victim
    assert load_card(folder) == card
    facts = card.quantization
    assert facts is not None
    network, _ = load_artifact(tiny_victim)
    assert facts.float_bytes == sum(4 * value.numel() for value in network.parameters())
    assert facts.graph_bytes == (folder / "model.onnx").stat().st_size < facts.float_bytes / 3
    images = digits.validation
    served = load_model(str(folder)).predict(as_float(images.images))
    simulated, exact = predict_logits(restore_simulated(folder), images), predict_logits(network, images)
    assert facts.agreement == pytest.approx(float((served.argmax(1) == simulated.argmax(1)).float().mean()))
    assert facts.float_agreement == pytest.approx(float((served.argmax(1) == exact.argmax(1)).float().mean()))
    assert facts.agreement >= 0.99
    assert facts.float_agreement >= 0.95
    p, q = served.double().softmax(1), exact.double().softmax(1)
    assert facts.float_divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()), abs=1e-6)
    assert set(facts.latency_ms) >= {
        f"{name} batch {size}" for name in ("float32 torch", "int8 onnxruntime") for size in (1, 64)
    }
    assert min(facts.latency_ms.values()) > 0
    assert f"{facts.graph_bytes / 1e3:,.0f} kB" in facts.words()


def test_the_graph_has_integer_kernels_alone(int8_victim: tuple[Path, ModelCard], tmp_path: Path) -> None:
    """Layout changes aside, ONNX Runtime multiplies nothing in float32 but the last layer."""
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    runtime.InferenceSession(str(int8_victim[0] / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kernels = [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
    assert kernels.count("QLinearConv") == 3, kernels
    assert not {"Conv", "FusedConv"} & set(kernels), kernels
    assert kernels.count("QuantizeLinear") == 1, kernels


def test_nothing_of_this_machine_is_in_the_graph(int8_victim: tuple[Path, ModelCard]) -> None:
    data = (int8_victim[0] / "model.onnx").read_bytes()
    for word in (b"site-packages", b"small_cnn.py", str(Path(__file__).parents[2]).encode(), b"stack_trace"):
        assert word not in data


def test_gradients_of_an_int8_victim_are_refused(int8_victim: tuple[Path, ModelCard]) -> None:
    with pytest.raises(ModelError, match=r"is an int8 victim \(ptq:.*; fix: give the float32 victim that it came from"):
        load_artifact(int8_victim[0])


def test_a_changed_graph_is_refused(int8_victim: tuple[Path, ModelCard], tmp_path: Path) -> None:
    for path in int8_victim[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes() + b"\x72\x00")
    with pytest.raises(
        ModelError, match=r"model.onnx has hash \w+, but model.json says \w+: it was cut short or changed"
    ):
        load_model(str(tmp_path))


def test_restoring_gives_what_was_converted(
    int8_victim: tuple[Path, ModelCard], digits: Splits, tiny_victim: Path
) -> None:
    simulated = restore_simulated(int8_victim[0])
    inputs = as_float(digits.test.images[:50])
    with torch.no_grad():
        assert torch.equal(simulated(inputs), simulated.converted()(inputs))
    with pytest.raises(ModelError, match="is no int8 victim; fix: give one that ptq, qat or divqat made"):
        restore_simulated(tiny_victim)


def test_its_simulated_form_is_restored_once(int8_victim: tuple[Path, ModelCard], tiny_victim: Path) -> None:
    folder, _ = int8_victim
    predictor = load_model(str(folder))
    simulated = simulated_form(predictor)
    assert simulated is not None
    assert simulated_form(predictor) is simulated
    assert same(simulated, restore_simulated(folder))
    for other in (tiny_victim, folder / "model.onnx"):
        assert simulated_form(load_model(str(other))) is None


def test_an_int8_victim_can_be_assessed_by_openvino(int8_victim: tuple[Path, ModelCard], digits: Splits) -> None:
    pytest.importorskip("openvino")
    inputs = as_float(digits.test.images)
    ours, theirs = load_model(str(int8_victim[0])), load_model(f"{int8_victim[0]},runtime=openvino")
    assert ours.digest != theirs.digest, "answers differ in rounding"
    agreed = ours.predict(inputs).argmax(1) == theirs.predict(inputs).argmax(1)
    assert float(agreed.float().mean()) >= 0.99


def test_training_goes_on_where_it_was_killed(tiny_job: MakeJob) -> None:
    """Killed in the float32 part, then in the int8 part."""
    recipe = create_recipe("qat", tune_epochs=3, tune_lr=0.01)
    whole = run(recipe, tiny_job("whole"))
    for kill_after in (4, 5):
        with pytest.raises(Killed):
            run(recipe, tiny_job("resumed", progress=Stopwatch(kill_after)))
    rest = Stopwatch()
    resumed = run(recipe, tiny_job("resumed", progress=rest))
    assert rest.steps < 15
    assert same(resumed, whole)
    lines = [json.loads(line) for line in (tiny_job("resumed").directory / "training.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_tuning_changes_weights_and_freezes_ranges(tiny_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, float]] = []
    freeze = Simulated.freeze

    def watched(self: Simulated, frozen: bool = True) -> None:
        seen.append(
            (frozen, sum(float(rounding.scale.sum()) for rounding in self.roundings() if rounding.dtype == torch.uint8))
        )
        freeze(self, frozen)

    calibrated = run(create_recipe("ptq"), tiny_job("ptq"))
    monkeypatch.setattr(Simulated, "freeze", watched)
    tuned = run(create_recipe("qat", tune_epochs=3, tune_lr=0.01), tiny_job("qat"))
    assert [frozen for frozen, _ in seen] == [False, False, True]
    assert seen[0][1] != seen[1][1] != seen[2][1]
    after = sum(float(rounding.scale.sum()) for rounding in tuned.roundings() if rounding.dtype == torch.uint8)
    assert after == pytest.approx(seen[2][1], rel=1e-6)
    moved = zip(calibrated.parameters(), tuned.parameters(), strict=True)
    assert not any(torch.equal(before, now) for before, now in moved)
    assert all(int(rounding.fake_quant_enabled) == 1 for rounding in tuned.roundings())


def test_nothing_is_learned_from_validation(tiny_job: MakeJob) -> None:
    """Ranges included: looking at validation images leaves no trace in them."""
    job = tiny_job("a")
    part = replace(job.splits, validation=job.splits.validation.take(torch.arange(3)))
    recipe = create_recipe("qat", tune_epochs=2)
    assert same(run(recipe, job), run(recipe, tiny_job("b", splits=part)))


def test_a_start_is_used_as_it_is(tiny_job: MakeJob, digits: Splits, tiny_victim: Path) -> None:
    job = tiny_job(splits=digits)
    simulated = run(create_recipe("ptq", start=str(tiny_victim)), job)
    network, _ = load_artifact(tiny_victim)
    inputs = as_float(digits.test.images)
    with torch.no_grad():
        agreed: Tensor = simulated(inputs).argmax(1) == network(inputs).argmax(1)
    assert float(agreed.float().mean()) > 0.97
    assert not list(job.directory.glob("*.jsonl")), "nothing was trained"


def test_a_start_counts_in_the_fingerprint(
    tiny_job: MakeJob, tiny_victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, job = create_recipe("ptq", start=str(tiny_victim)), tiny_job()
    before = job.fingerprint(recipe)
    card = load_card(tiny_victim).model_copy(update={"weights_digest": "other"})
    monkeypatch.setattr("modelmoat.recipes._quantized.load_card", lambda _: card)
    assert job.fingerprint(recipe) != before


def test_a_start_that_does_not_fit_is_refused(tiny_job: MakeJob, digits: Splits, tiny_victim: Path) -> None:
    recipe = create_recipe("ptq", start=str(tiny_victim))
    with pytest.raises(ModelError, match=r"start=.* is a small_cnn, not a resnet8; fix: --arch small_cnn"):
        run(recipe, tiny_job(splits=digits, arch="resnet8"))
    with pytest.raises(
        DataError, match=r"was trained on digits,pool=0.4 \(seed 0\), not on the training images of digits,subset"
    ):
        run(recipe, tiny_job())
    with pytest.raises(ModelError, match="is not a model artifact"):
        train_victim(create_recipe("ptq", start="nowhere"), tiny_job())


def test_a_missing_package_is_said_before_anything_is_trained(
    tiny_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named '{name}'", name="torchao")

    steps = Stopwatch()
    job = tiny_job(progress=steps)
    network = network_of(job)
    monkeypatch.setattr("modelmoat.models.packages.importlib.import_module", missing)
    with pytest.raises(
        ModelError, match=r"'qat' needs the package torchao, .*; fix: pip install 'modelmoat\[quantize\]'"
    ):
        create_recipe("qat").train(network, job)
    assert steps.steps == 0


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ptq", {"weight_bits": 1}, "ptq:weight_bits=1: expected 2 to 8"),
        ("ptq", {"calibration_images": 0}, "ptq:calibration_images=0: expected at least 1"),
        ("qat", {"tune_epochs": 0}, "qat:tune_epochs=0: expected at least 1"),
        ("qat", {"tune_lr": float("nan")}, "qat:tune_lr=nan: expected a positive number"),
    ],
)
def test_impossible_parameters_are_refused(name: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create_recipe(name, **parameters)
