import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modelmoat.core.errors import InvalidAnswer, ModelError
from modelmoat.models import create_network, load_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def export(module, path, *, rows, dynamic, external=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            module.eval(),
            (torch.rand(rows, 1, 8, 8),),
            path,
            dynamo=True,
            verbose=False,
            external_data=external,
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
        )
    return str(path)


@pytest.fixture(scope="module")
def body():
    return create_network("small_cnn", num_classes=3, input_shape=(1, 8, 8), seed=0).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory, body):
    folder = tmp_path_factory.mktemp("onnx")
    return {
        "dynamic": export(body, folder / "dynamic.onnx", rows=2, dynamic=True),
        "fixed": export(body, folder / "fixed.onnx", rows=3, dynamic=False),
        "softmax": export(nn.Sequential(body, nn.Softmax(1)), folder / "softmax.onnx", rows=2, dynamic=True),
        "external": export(body, folder / "external.onnx", rows=1, dynamic=False, external=True),
    }


@pytest.mark.parametrize("kind", ["dynamic", "fixed", "external"])
def test_answers_are_those_of_the_module(files, kind, body, images):
    predictor = load_model(files[kind])
    assert (predictor.num_classes, predictor.input_shape, predictor.outputs) == (3, (1, 8, 8), "logits")
    torch.testing.assert_close(predictor.predict(images), body(images).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predictor.predict(images[:1]), body(images[:1]).detach(), rtol=1e-4, atol=1e-5)


def test_a_last_softmax_means_probabilities(files, body, images):
    predictor = load_model(files["softmax"])
    assert predictor.outputs == "probabilities"
    torch.testing.assert_close(predictor.predict(images), body(images).softmax(1).detach(), rtol=1e-4, atol=1e-5)
    assert load_model(files["softmax"] + ",outputs=logits").outputs == "logits"


def test_logits_declared_as_probabilities_are_an_invalid_answer(files, images):
    with pytest.raises(InvalidAnswer, match="outputs=logits"):
        load_model(files["dynamic"], outputs="probabilities").predict(images)


def test_digest_covers_weights_beside_the_graph(files, tmp_path):
    before = load_model(files["external"]).digest
    for name in ("external.onnx", "external.onnx.data"):
        shutil.copy(Path(files["external"]).with_name(name), tmp_path)
    assert load_model(str(tmp_path / "external.onnx")).digest == before
    data = bytearray((tmp_path / "external.onnx.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "external.onnx.data").write_bytes(bytes(data))
    assert load_model(str(tmp_path / "external.onnx")).digest != before


def test_missing_weights_are_named(files, tmp_path):
    shutil.copy(files["external"], tmp_path)
    with pytest.raises(ModelError, match=r"external\.onnx\.data"):
        load_model(str(tmp_path / "external.onnx"))


def test_another_image_shape_is_refused(files):
    with pytest.raises(ModelError, match=r"takes images of shape \[1, 8, 8\].*not \[3, 32, 32\]"):
        load_model(files["dynamic"], input_shape=(3, 32, 32))


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match="not an ONNX model"):
        load_model(str(tmp_path / "m.onnx"))


def small_graph(path, *, nodes, initializers=(), inputs=None, outputs=None):
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    inputs = inputs or [("x", ["n", 1, 8, 8])]
    outputs = outputs or [("y", ["n", 64])]
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        "g",
        [helper.make_tensor_value_info(name, floats, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, floats, shape) for name, shape in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


def test_graphs_of_another_form_are_refused(tmp_path):
    two = small_graph(
        tmp_path / "two.onnx",
        nodes=[("Flatten", ["x"], ["y"], {}), ("Flatten", ["x"], ["z"], {})],
        outputs=[("y", ["n", 64]), ("z", ["n", 64])],
    )
    with pytest.raises(ModelError, match=r"2 outputs \(y, z\)"):
        load_model(two)
    flat = small_graph(tmp_path / "flat.onnx", nodes=[("Identity", ["x"], ["y"], {})], inputs=[("x", ["n", 64])])
    with pytest.raises(ModelError, match=r"must take images \[N, C, H, W\]"):
        load_model(flat)


def test_dynamic_quantization_does_not_mix_rows(tmp_path, images):
    weight = np.arange(192, dtype=np.int8).reshape(64, 3)
    path = small_graph(
        tmp_path / "q.onnx",
        nodes=[
            ("Flatten", ["x"], ["f"], {}),
            ("DynamicQuantizeLinear", ["f"], ["q", "scale", "zero"], {}),
            ("MatMulInteger", ["q", "w", "zero"], ["i"], {}),
            ("Cast", ["i"], ["c"], {"to": 1}),
            ("Mul", ["c", "scale"], ["y"], {}),
        ],
        initializers=[("w", weight)],
        outputs=[("y", ["n", 3])],
    )
    predictor = load_model(path)
    faint = images * 0.01
    together = predictor.predict(torch.cat([faint, images]))
    assert torch.equal(together[:7], predictor.predict(faint))
    predictor._alone = False
    assert not torch.equal(predictor.predict(torch.cat([faint, images]))[:7], predictor.predict(faint))


def test_without_onnxruntime_the_message_says_what_to_install(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'modelmoat\[onnx\]'"):
        load_model(files["dynamic"])
