"""Writing a network as an ONNX file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from modelmoat.core.errors import ModelError
from modelmoat.core.files import atomic_path
from modelmoat.models.digests import bytes_digest
from modelmoat.models.origin import Origin
from modelmoat.models.outputs import OutputKind
from modelmoat.models.packages import import_extra, quiet
from modelmoat.models.request import Shape, first_line

INPUT = "images"
FACTS = "modelmoat"  # key of the file's metadata that holds what is not in the graph
_ORIGIN = "victim"
_MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def write_onnx(
    path: Path,
    module: nn.Module,
    *,
    input_shape: Shape,
    outputs: OutputKind,
    class_names: tuple[str, ...],
    label: str,
    origin: Origin | None = None,
) -> str:
    """Write a module as one ONNX file for batches of any size; returns the hash of the file.

    The file holds the graph, its weights and what `OnnxPredictor` wants to know; nothing of the code it was traced from.

    Args:
        path: the file.
        module: takes float32 images [N, C, H, W] in [0, 1], returns [N, K]; on the CPU, in evaluation mode where that
            makes a difference. Its weights are laid out anew in place.
        input_shape: channels, height and width.
        outputs: what [N, K] is.
        class_names: K names or none.
        label: what the module is, for errors.
        origin: where the victim comes from, if the file is to say so.

    Raises:
        ModelError: the exporter is missing, or the module does something that cannot be traced or that ONNX has not.
        RunError: the file cannot be written.
    """
    import_extra("onnx", extra="onnx", reference=label)
    import_extra("onnxscript", extra="onnx", reference=label)
    model = _translated(_traced(module, input_shape, label), outputs, label)
    _strip(model)
    facts = model.metadata_props.add()
    facts.key, facts.value = FACTS, json.dumps(_facts(outputs, class_names, origin))
    data: bytes = model.SerializeToString(deterministic=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return bytes_digest(data)


def read_facts(model: Any) -> dict[str, Any]:
    """What `write_onnx` left in a loaded model beside its graph; empty for files of others.

    Raises:
        ModelError: somebody changed it.
    """
    found = next((entry.value for entry in model.metadata_props if entry.key == FACTS), "{}")
    try:
        facts: dict[str, Any] = json.loads(found)
    except ValueError as error:
        raise ModelError(f"the file's metadata '{FACTS}' is damaged ({error}); fix: export it again") from error
    return facts


def read_origin(model: Any) -> Origin | None:
    """Where the victim in a loaded model comes from; None where the file does not say.

    Raises:
        ModelError: somebody changed it.
    """
    found = read_facts(model).get(_ORIGIN)
    try:
        return None if found is None else Origin.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (_ORIGIN, *first["loc"])))
        raise ModelError(
            f"the file's metadata '{FACTS}' is damaged ({where}: {first['msg']}); fix: export it again"
        ) from error


def _facts(outputs: OutputKind, class_names: tuple[str, ...], origin: Origin | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"outputs": outputs, "class_names": class_names}
    return facts | ({_ORIGIN: origin.model_dump()} if origin else {})


def _traced(module: nn.Module, shape: Shape, label: str) -> torch.export.ExportedProgram:
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # others leave strides in the graph
    try:
        with quiet(), torch.no_grad():
            example = torch.zeros(2, *shape)
            return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:
        raise ModelError(f"{label} cannot be traced into a graph: {first_line(error)}") from error


def _translated(program: torch.export.ExportedProgram, outputs: OutputKind, label: str) -> Any:
    try:
        with quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[outputs])
    except torch.onnx.OnnxExporterError as error:
        missing = sorted(set(_MISSING.findall(str(error))))
        what = f"uses {', '.join(missing)}, which ONNX does not have" if missing else first_line(error)
        raise ModelError(
            f"{label} cannot be written as ONNX: {what}; fix: leave it out of the file, and serve it with modelmoat"
        ) from error
    return made.model_proto if made else None


def _strip(model: Any) -> None:
    """Take out names of source files, stack traces and shapes of values in between, which the exporter leaves."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
