"""Which tensors of an exported graph become integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from modelmoat.core.errors import ModelError
from modelmoat.models.packages import quiet
from modelmoat.quantization.bits import ACTIVATION_RANGE, Bits
from modelmoat.quantization.operators import ADD, AVERAGE, MOVE, MULTIPLY, RELU, calls, is_head, only_user
from modelmoat.quantization.rewriting import rewrite

_ANNOTATION = "quantization_annotation"  # where prepare looks


def make_quantizer(bits: Bits) -> Any:
    """A torchao quantizer that leaves no activation in float32 between two layers.

    Every convolution, linear layer and addition reads and writes integers, with a ReLU that follows merged into it: that
    is the form which runtimes turn into one integer kernel per layer. Where only inputs are quantized, as torchao's own
    quantizer for x86 does, ONNX Runtime falls back to float32 kernels between conversions. The last linear layer stays
    in float32: it has a ten-thousandth of the multiplications, and scores keep their precision.
    """
    with quiet():
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer, SharedQuantizationSpec

    class _Quantizer(Quantizer):  # type: ignore[misc]
        def transform_for_annotation(self, model: GraphModule) -> GraphModule:
            rewrite(model)
            return model

        def annotate(self, model: GraphModule) -> GraphModule:
            activation, weight = _specs(bits)
            for node in calls(model):
                inputs, output = _plan(node)
                annotation = QuantizationAnnotation(_annotated=True)
                annotation.input_qspec_map = dict.fromkeys(inputs, activation)
                if node.target in MULTIPLY and inputs:
                    annotation.input_qspec_map[node.args[1]] = weight
                if output:
                    annotation.output_qspec = (
                        SharedQuantizationSpec((inputs[0], node)) if node.target in MOVE else activation
                    )
                node.meta[_ANNOTATION] = annotation
            return model

        def validate(self, model: GraphModule) -> None:
            _refuse_unsupported(model)

    return _Quantizer()


def _plan(node: Node) -> tuple[list[Node], bool]:
    """Which inputs of an operator are integers, and whether its output is."""
    tensors = [value for value in node.args if isinstance(value, Node)]
    if node.target in MULTIPLY:
        return ([], False) if is_head(node) else (tensors[:1], not _relu_follows(node))
    if node.target in ADD:
        both = len(tensors) == 2
        return (tensors if both else []), both and not _relu_follows(node)
    if node.target in RELU:
        return [], True
    if node.target in MOVE:
        integers = _gives_integers(tensors[0])
        return (tensors[:1] if integers else []), integers
    return (tensors[:1] if node.target in AVERAGE else []), False


def _gives_integers(node: Node) -> bool:
    return getattr(node.meta.get(_ANNOTATION), "output_qspec", None) is not None


def _relu_follows(node: Node) -> bool:
    user = only_user(node)
    return user is not None and user.target in RELU


def _specs(bits: Bits) -> tuple[Any, Any]:
    """How activations and weights are quantized.

    `FakeQuantize` rather than the fused one of torchao's defaults: the fused one chooses other scales than conversion
    does, so the converted network would not be the one that was trained.
    """
    from torchao.quantization.pt2e import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    def spec(dtype: torch.dtype, limits: tuple[int, int], scheme: torch.qscheme, observer: Any, **more: Any) -> Any:
        make: Callable[..., Any] = FakeQuantize.with_args(observer=observer, eps=2**-20)
        return QuantizationSpec(
            dtype=dtype,
            quant_min=limits[0],
            quant_max=limits[1],
            qscheme=scheme,
            observer_or_fake_quant_ctr=make,
            **more,
        )

    now = {"averaging_constant": 1.0}  # weights are known, not estimated
    activation = spec(torch.uint8, ACTIVATION_RANGE, torch.per_tensor_affine, MovingAverageMinMaxObserver)
    if bits.per_channel:
        observer = MovingAveragePerChannelMinMaxObserver.with_args(**now)
        weight = spec(torch.int8, bits.weight_range, torch.per_channel_symmetric, observer, ch_axis=0)
    else:
        observer = MovingAverageMinMaxObserver.with_args(**now)
        weight = spec(torch.int8, bits.weight_range, torch.per_tensor_symmetric, observer)
    return activation, weight


def _refuse_unsupported(model: GraphModule) -> None:
    """Raise `ModelError` that names every layer with weights of its own that cannot multiply integers."""
    learned = {name for name, _ in model.named_parameters()}
    found = []
    for node in calls(model):
        weights = [arg for arg in node.all_input_nodes if arg.op == "get_attr" and arg.target in learned]
        if weights and node.target not in MULTIPLY:
            kind = str(node.target).removeprefix("aten.").partition(".")[0]
            found.append(f"{str(weights[0].target).rpartition('.')[0] or weights[0].target} ({kind})")
    if found:
        raise ModelError(
            f"layers that cannot be quantized: {', '.join(dict.fromkeys(found))}; 2d convolutions, linear layers and batch "
            "norm with running statistics can; fix: choose another architecture, or leave the model in float32"
        )
