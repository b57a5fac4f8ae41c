from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import ModelError, OptionError
from modelmoat.models.onnx_writer import write_onnx
from modelmoat.quantization import Bits, Simulated
from modelmoat.training import TensorImages

from .conftest import SHAPE

Simulate = Callable[..., Simulated]


class TwoLinear(nn.Module):
    """Flattened pixels through one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden, self.head = nn.Linear(72, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(x.flatten(1))))


def test_features_are_the_input_of_the_last_layer(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    simulated = simulate(toy)
    before = {name: value.clone() for name, value in simulated.state_dict().items()}
    with torch.no_grad():
        features, logits = simulated.features(pixels), simulated(pixels)
        torch.testing.assert_close(F.linear(features, simulated.head_weight, toy.head.bias), logits)
        assert torch.equal(simulated.features(pixels[:1]), features[:1])
        assert torch.equal(simulated.copy().features(pixels), features)
    assert torch.equal(simulated.head_weight, toy.head.weight)
    assert all(torch.equal(value, before[name]) for name, value in simulated.state_dict().items())


def test_a_network_without_a_linear_head_has_no_features(simulate: Simulate, pixels: Tensor) -> None:
    simulated = simulate(nn.Sequential(nn.Conv2d(2, 3, 6), nn.Flatten()))
    with pytest.raises(ModelError, match=r"ends in aten.flatten.using_ints, expected a linear layer; fix: .*nn.Linear"):
        simulated.features(pixels)


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale and offset of unsigned bytes that cover a range, zero included."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return scale, int(np.clip(round(-low / scale), 0, 255))


def test_a_linear_layer_multiplies_integers(simulate: Simulate, pixels: Tensor, tmp_path: Path) -> None:
    """By hand: bytes of pixels times bytes of weights, added in 32 bits, scaled back, cut at zero, rounded to bytes."""
    network = TwoLinear()
    simulated = simulate(network)
    weight, bias = network.hidden.weight.detach().numpy(), network.hidden.bias.detach().numpy()
    batches = pixels.flatten(1).split(20)

    def extremes(batches: list[Tensor]) -> tuple[float, float]:
        return float(np.mean([batch.min() for batch in batches])), float(np.mean([batch.max() for batch in batches]))

    scale_x, offset_x = grid(*extremes(list(batches)))
    hidden = [F.relu(network.hidden(batch)).detach() for batch in batches]
    scale_y, offset_y = grid(*extremes(hidden))
    scale_w = np.abs(weight).max(axis=1, keepdims=True) / 63
    bytes_w = np.rint(weight / scale_w).astype(np.int8)
    bytes_x = np.clip(np.rint(pixels.flatten(1).numpy() / scale_x) + offset_x, 0, 255).astype(np.uint8)
    sums = (bytes_x.astype(np.int32) - offset_x) @ bytes_w.astype(np.int32).T
    assert np.abs(bytes_w).max() == 63
    activated = np.maximum(sums * (scale_x * scale_w.T) + bias, 0)
    bytes_y = np.clip(np.rint(activated / scale_y) + offset_y, 0, 255)
    by_hand = (
        bytes_y - offset_y
    ) * scale_y @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(simulated(pixels).numpy(), by_hand, atol=1e-5)

    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "linear.onnx"
    write_onnx(path, simulated.converted(), input_shape=SHAPE, outputs="logits", class_names=(), label="linear")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    (found,) = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(
        None, {"images": pixels.numpy()}
    )
    one_step = scale_y * float(network.head.weight.detach().abs().sum(dim=1).max())
    assert np.abs(found - by_hand).max() <= one_step
    assert np.mean(np.abs(found - by_hand) < 1e-4) > 0.9
    onnx = pytest.importorskip("onnx")
    kernels = [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
    assert "QGemm" in kernels, kernels


def test_without_rounding_it_is_the_network(toy: nn.Module, pixels: Tensor) -> None:
    """Folded norms, norms as convolutions and swapped pools change nothing."""
    simulated = Simulated(toy, Bits(), input_shape=SHAPE)
    for rounding in simulated.roundings():
        rounding.enable_fake_quant(False)
    with torch.no_grad():
        torch.testing.assert_close(simulated(pixels), toy(pixels), atol=1e-5, rtol=1e-4)


def test_every_layer_but_the_last_is_rounded(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    graph = simulate(toy).converted()
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("dequantize_per_channel" in name for name in names) == 4  # two convolutions, a norm, the hidden layer
    stored = {str(value.dtype) for value in graph.state_dict().values() if value.ndim == 4}
    assert "torch.int8" in stored
    for node in graph.graph.nodes:
        if str(node.target) in ("aten.conv2d.default", "aten.add.Tensor"):
            assert all("dequantize" in str(read.target) for read in node.args[:2])
            (user,) = node.users
            after = next(iter(user.users)) if "relu" in str(user.target) else user
            assert "quantize_per_tensor" in str(after.target)


@pytest.mark.parametrize("bits", [{}, {"weights": 4}, {"per_channel": False}, {"reduce_range": False}], ids=str)
def test_conversion_computes_what_was_simulated(
    toy: nn.Module, simulate: Simulate, pixels: Tensor, bits: dict[str, object]
) -> None:
    simulated = simulate(toy, **bits)
    with torch.no_grad():
        assert torch.equal(simulated.converted()(pixels), simulated(pixels))
    limits = {"weights": 7, "reduce_range": 127}
    expected = next((limits[key] for key in bits if key in limits), 63)
    weights = [value for value in simulated.converted().state_dict().values() if value.dtype == torch.int8]
    assert max(int(value.abs().max()) for value in weights if value.ndim > 1) == expected


def test_fewer_bits_are_further_from_the_network(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    with torch.no_grad():
        exact = toy(pixels)
        errors = [float((simulate(toy, weights=bits)(pixels) - exact).abs().mean()) for bits in (8, 4, 2)]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 < errors[2]


def test_gradients_pass_inside_the_range_alone() -> None:
    class Pass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
            self.hidden.weight.data, self.head.weight.data = torch.eye(4), torch.ones(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.hidden(x.flatten(1))))

    simulated = Simulated(Pass(), Bits(), input_shape=(1, 2, 2))
    simulated.calibrate(TensorImages(torch.tensor([[[[0.0, 1.0], [0.5, 0.2]]]])), [torch.arange(1)])
    x = torch.tensor([[[[0.3, 0.9], [1.5, -0.5]]]], requires_grad=True)
    simulated(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0])


def test_the_original_stays_as_it_is(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    before = copy.deepcopy(toy.state_dict())
    simulated = simulate(toy).train()
    optimizer = torch.optim.SGD(simulated.parameters(), lr=0.1)
    earlier = [parameter.detach().clone() for parameter in simulated.parameters()]
    simulated(pixels).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(earlier, simulated.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in toy.state_dict().items())


def ranges(simulated: Simulated) -> list[tuple[float, ...]]:
    return [tuple(rounding.scale.tolist()) for rounding in simulated.roundings()]


def test_ranges_move_in_training_until_frozen_and_never_in_evaluation(
    toy: nn.Module, simulate: Simulate, pixels: Tensor
) -> None:
    simulated = simulate(toy)
    assert all(int(rounding.fake_quant_enabled) == 1 for rounding in simulated.roundings())
    before = ranges(simulated)
    with torch.no_grad():
        simulated(100 * pixels)
        assert ranges(simulated) == before
        simulated.train()(100 * pixels)
        moved = ranges(simulated)
        assert moved != before
        simulated.freeze()
        simulated(1000 * pixels)
        assert ranges(simulated) == moved
        next(simulated.parameters()).mul_(2)
        simulated(pixels)
        assert ranges(simulated) != moved  # weights are known, frozen or not


def test_a_copy_and_a_saved_state_answer_alike(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    simulated = simulate(toy)
    other = Simulated(toy, Bits(), input_shape=SHAPE)
    other.load_state_dict(simulated.state_dict())
    with torch.no_grad():
        expected = simulated(pixels)
        assert torch.equal(simulated.copy()(pixels), expected)
        assert torch.equal(other(pixels), expected)
        assert torch.equal(other.converted()(pixels), expected)


def test_rows_do_not_change_each_other(toy: nn.Module, simulate: Simulate, pixels: Tensor) -> None:
    simulated = simulate(toy)
    with torch.no_grad():
        alone = torch.cat([simulated(row[None]) for row in pixels[:5]])
        torch.testing.assert_close(simulated(pixels)[:5], alone, atol=1e-5, rtol=0)


def test_layers_that_cannot_be_quantized_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 2, 2)
            self.inner = nn.Sequential(nn.Flatten(), nn.LayerNorm(98), nn.Linear(98, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.up(x))

    with pytest.raises(
        ModelError, match=r"cannot be quantized: up \(conv_transpose2d\), inner.1 \(layer_norm\); 2d .*; fix: "
    ):
        Simulated(Odd().eval(), Bits(), input_shape=SHAPE)


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ModelError, match=r"^torch\.export cannot trace the network: .+; fix: [^\n]+$"):
        Simulated(Branching(), Bits(), input_shape=SHAPE)


def test_impossible_bits_are_refused() -> None:
    with pytest.raises(OptionError, match="weight_bits=9: expected 2 to 8"):
        Bits(weights=9)


def test_two_products_fit_into_16_bits() -> None:
    assert 2 * 255 * Bits().weight_range[1] <= 2**15 - 1 < 2 * 255 * Bits(reduce_range=False).weight_range[1]
