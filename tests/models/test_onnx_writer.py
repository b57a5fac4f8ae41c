from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modelmoat.core.errors import ModelError, OptionError
from modelmoat.models import Classifier, create_network, load_model
from modelmoat.models.onnx_writer import FACTS, read_facts, write_onnx

THREADS = Path("/proc/self/task")

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def write(path: Path, module: nn.Module, **changes: object) -> str:
    facts = {"input_shape": (1, 8, 8), "outputs": "logits", "class_names": ("a", "b", "c"), "label": "toy", **changes}
    return write_onnx(path, module, **facts)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier, str]:
    """A network in channels-last layout, as it is served."""
    network = create_network("resnet8", num_classes=3, input_shape=(1, 8, 8), seed=0, mean=(0.3,), std=(0.4,)).eval()
    network.to(memory_format=torch.channels_last)
    path = tmp_path_factory.mktemp("written") / "model.onnx"
    return path, network, write(path, network)


def test_a_file_answers_as_the_network_for_any_batch_size(
    written: tuple[Path, Classifier, str], images: Tensor
) -> None:
    path, network, digest = written
    predictor = load_model(str(path))
    assert (predictor.digest, predictor.outputs, predictor.class_names) == (digest, "logits", ("a", "b", "c"))
    for count in (1, 2, 7):
        torch.testing.assert_close(
            predictor.predict(images[:count]), network(images[:count]).detach(), atol=1e-5, rtol=0
        )


def test_a_graph_is_only_as_large_as_its_network(written: tuple[Path, Classifier, str]) -> None:
    """No source code, and none of the bookkeeping that memory layouts leave."""
    path, network, _ = written
    model = onnx.load(str(path))
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"Conv", "Relu", "Add", "Sub", "Div", "Slice", "Pad", "ReduceMean", "Reshape", "Gemm"}, kinds
    weights = sum(4 * value.numel() for value in network.parameters())
    assert path.stat().st_size < weights + 16_000
    for word in (b"modelmoat/", b"site-packages", b"stack_trace"):
        assert word not in path.read_bytes()


def test_the_same_network_gives_the_same_file(written: tuple[Path, Classifier, str], tmp_path: Path) -> None:
    assert write(tmp_path / "again.onnx", written[1]) == written[2]


def test_what_cannot_be_traced_is_said_by_its_name(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ModelError, match="toy cannot be traced into a graph: "):
        write(tmp_path / "model.onnx", Branching())
    assert list(tmp_path.iterdir()) == []


def test_damaged_facts_are_refused(written: tuple[Path, Classifier, str], tmp_path: Path) -> None:
    model = onnx.load(str(written[0]))
    assert read_facts(model) == {"outputs": "logits", "class_names": ["a", "b", "c"]}
    for value, message in (("{", "metadata 'modelmoat' is damaged"), (json.dumps({"outputs": "cats"}), "outputs=cats")):
        (entry,) = [entry for entry in model.metadata_props if entry.key == FACTS]
        entry.value = value
        onnx.save(model, str(tmp_path / "model.onnx"))
        with pytest.raises((ModelError, OptionError), match=message):
            load_model(str(tmp_path / "model.onnx"))


def test_openvino_is_another_runtime_of_the_same_file(written: tuple[Path, Classifier, str], images: Tensor) -> None:
    pytest.importorskip("openvino")
    path, network, digest = written
    predictor = load_model(f"{path},runtime=openvino")
    assert predictor.digest not in ("", digest)
    for count in (1, 7):
        torch.testing.assert_close(
            predictor.predict(images[:count]), network(images[:count]).detach(), atol=1e-4, rtol=0
        )


@pytest.mark.skipif(not THREADS.exists(), reason="counts threads as Linux lists them")
def test_a_file_gets_the_threads_that_torch_has(written: tuple[Path, Classifier, str]) -> None:
    """Workers of a study have one thread each; a runtime's own choice is every core of the machine."""
    assert threads_of(written[0], 3) - threads_of(written[0], 1) == 2


def threads_of(path: Path, torch_threads: int) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(torch_threads)
    try:
        started = len(list(THREADS.iterdir()))
        predictor = load_model(str(path))
        found = len(list(THREADS.iterdir())) - started
    finally:
        torch.set_num_threads(before)
    assert predictor.num_classes == 3
    return found


def test_an_unknown_runtime_is_refused_with_the_nearest(written: tuple[Path, Classifier, str]) -> None:
    with pytest.raises(OptionError, match="runtime=openvin: expected onnxruntime or openvino; did you mean 'openvino'"):
        load_model(f"{written[0]},runtime=openvin")


def test_a_missing_runtime_is_named(written: tuple[Path, Classifier, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"needs the package openvino, .*; fix: "):
        load_model(f"{written[0]},runtime=openvino")
