"""ONNX files, answered by ONNX Runtime or OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelmoat.core.errors import ModelError, OptionError, nearest
from modelmoat.models.digests import bytes_digest, files_digest
from modelmoat.models.onnx_writer import read_facts, read_origin
from modelmoat.models.origin import Origin
from modelmoat.models.outputs import read_kind
from modelmoat.models.packages import import_extra
from modelmoat.models.predictor import BatchedPredictor
from modelmoat.models.request import Request, Runtime, Shape, agreed_shape, first_line, fixed_sizes

_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_RESHAPING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "QuantizeLinear", "DequantizeLinear"}


class OnnxPredictor(BatchedPredictor):
    """An ONNX graph with one image input [N, C, H, W] in [0, 1] and one output [N, K], always on the CPU.

    Rows are split and padded to the graph's batch size where that is fixed. A graph whose last operator is a softmax
    gives probabilities unless ``outputs`` says otherwise; a file of `write_onnx` says what it gives, and may say how it
    was trained. A graph that quantizes its activations dynamically chooses its scale per batch; it gets one row at a
    time, so that no row changes another's answer. Runtimes get as many threads as torch has when the file is opened.

    Args:
        path: the file; weights in files beside it are found through it.
        request: what the user wrote; its device is not looked at. Other runtimes round otherwise, so the digest names
            OpenVINO where it answers.

    Attributes:
        artifact: folder of the int8 victim that the graph belongs to; None for a file by itself.

    Raises:
        ModelError: an unreadable file, a graph of another form, images of another shape asked for, or onnxruntime
            missing.
    """

    artifact: Path | None = None

    def __init__(self, path: Path, request: Request) -> None:
        reference = request.reference
        model = _read_model(path, reference)
        graph, facts, origin = model.graph, read_facts(model), read_origin(model)
        self.file_digest = files_digest([path, *_weight_files(graph, path)])
        session = _open_session(path, reference)
        source = _only("input", session.get_inputs(), reference)
        target = _only("output", session.get_outputs(), reference)
        self._answer = (
            _openvino(path, reference) if request.runtime == "openvino" else _onnxruntime(session, source.name)
        )
        self._dtype = _input_dtype(source, reference)
        rows, shape = _image_shape(source, reference)
        found = read_kind(facts.get("outputs")) or ("probabilities" if _ends_in_softmax(graph) else None)
        super().__init__(
            reference=reference,
            digest=_runtime_digest(self.file_digest, request.runtime),
            arch=origin.arch if origin else "onnx",
            recipe=origin.behind if origin else "external",
            num_classes=_last_size(target.shape),
            input_shape=agreed_shape(reference, shape, request.input_shape),
            class_names=tuple(facts.get("class_names", ())),
            outputs=request.outputs or found,
            fixed_rows=rows,
            alone=any(node.op_type.startswith("DynamicQuantize") for node in _all_nodes(graph)),
        )

    def _run(self, batch: Tensor) -> object:
        answers = self._answer(batch.to(self._dtype).contiguous().numpy())
        return torch.from_numpy(answers) if isinstance(answers, np.ndarray) else answers


def origin_of_file(path: Path) -> Origin | None:
    """Where the victim in an ONNX file comes from; None where the file does not say.

    Raises:
        ModelError: an unreadable file, or onnx missing.
    """
    return read_origin(_read_model(path, str(path)))


def read_runtime(text: str | None) -> Runtime:
    """Read the name of a runtime; onnxruntime for None; raises `OptionError` with the nearest match."""
    known = get_args(Runtime)
    if text is not None and text not in known:
        raise OptionError(f"runtime={text}: expected {' or '.join(known)}{nearest(text, known)}")
    return cast(Runtime, text or "onnxruntime")


def _onnxruntime(session: Any, name: str) -> Callable[[NDArray[Any]], Any]:
    def answer(batch: NDArray[Any]) -> Any:
        return session.run(None, {name: batch})[0]

    return answer


def _openvino(path: Path, reference: str) -> Callable[[NDArray[Any]], Any]:
    """Two compiled graphs, for one image and for any number: with an open batch size, one image takes half as long again.

    Float32 stays float32 where the CPU would rather use fewer bits.
    """
    openvino = import_extra("openvino", extra="openvino", reference=reference)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }

    @cache
    def request(single: bool) -> Any:
        try:
            model = openvino.Core().read_model(str(path))
            if single and model.inputs[0].partial_shape[0].is_dynamic:
                model.reshape([1, *model.inputs[0].partial_shape[1:]])
            return openvino.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:
            raise ModelError(
                f"OpenVINO cannot run '{reference}': {first_line(error)}; fix: leave out runtime=openvino"
            ) from error

    def answer(batch: NDArray[Any]) -> Any:
        asked = request(len(batch) == 1)
        asked.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
        asked.infer(share_outputs=True)  # with the batch as its argument, it takes a tenth longer for one image
        return asked.get_output_tensor().data.copy()

    request(single=False)
    return answer


def _runtime_digest(digest: str, runtime: Runtime) -> str:
    return digest if runtime == "onnxruntime" else bytes_digest(f"{digest} {runtime}".encode())


def _read_model(path: Path, reference: str) -> Any:
    onnx = import_extra("onnx", extra="onnx", reference=reference)
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise _broken(reference, error) from error


def _open_session(path: Path, reference: str) -> Any:
    runtime = import_extra("onnxruntime", extra="onnx", reference=reference)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _broken(reference, error) from error


def _broken(reference: str, error: Exception) -> ModelError:
    return ModelError(
        f"'{reference}' is not an ONNX model that onnxruntime can run: {first_line(error)}; fix: export it again"
    )


def _weight_files(graph: Any, path: Path) -> list[Path]:
    """Files beside the graph that hold its weights, in a fixed order."""
    places = {entry.value for weight in graph.initializer for entry in weight.external_data if entry.key == "location"}
    return [path.parent / place for place in sorted(places)]


def _only(what: str, values: Sequence[Any], reference: str) -> Any:
    if len(values) != 1:
        names = ", ".join(value.name for value in values) or "none"
        raise ModelError(
            f"'{reference}' has {len(values)} {what}s ({names}); it must have one; fix: export it with one {what}"
        )
    return values[0]


def _input_dtype(source: Any, reference: str) -> torch.dtype:
    if source.type not in _DTYPES:
        raise ModelError(
            f"'{reference}' takes {source.type}; it must take one of {', '.join(_DTYPES)}; fix: export it for float "
            "images"
        )
    return _DTYPES[source.type]


def _image_shape(source: Any, reference: str) -> tuple[int | None, Shape | None]:
    if len(source.shape) != 4:
        raise ModelError(
            f"'{reference}' takes inputs of shape {source.shape}; it must take images [N, C, H, W]; "
            "fix: export it for a batch of images"
        )
    return fixed_sizes(source.shape)


def _last_size(shape: Sequence[Any]) -> int | None:
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None


def _ends_in_softmax(graph: Any) -> bool:
    """Whether the first operator that matters, from the output backwards, is a softmax."""
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(graph.output[0].name) if graph.output else None
    while node is not None and node.op_type in _RESHAPING and node.input:
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def _all_nodes(graph: Any) -> list[Any]:
    """Nodes of a graph and of the graphs inside them."""
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                nodes += _all_nodes(attribute.g)
    return nodes
