"""Every architecture of the package as an int8 graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from modelmoat.models import arch_names, create_network
from modelmoat.models.onnx_writer import write_onnx
from modelmoat.quantization import Bits, Simulated
from modelmoat.training import TensorImages

SHAPE = (3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("arch", arch_names())
def test_every_architecture_runs_as_int8(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels = torch.rand(96, *SHAPE)
    network = create_network(arch, num_classes=10, input_shape=SHAPE, seed=0).train()
    with torch.no_grad():
        for _ in range(3):
            network(pixels)  # statistics of its own for batch norm
    network.eval()
    simulated = Simulated(network, Bits(), input_shape=SHAPE)
    simulated.calibrate(TensorImages(pixels), list(torch.arange(len(pixels)).split(32)))
    file = tmp_path / "int8.onnx"
    names = tuple(map(str, range(10)))
    write_onnx(file, simulated.converted(), input_shape=SHAPE, outputs="logits", class_names=names, label=arch)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        expected, exact = simulated(pixels).numpy(), network(pixels).numpy()
    spread = exact.std()
    assert np.abs(scores - expected).mean() < 0.05 * spread
    assert np.abs(scores - exact).mean() < 0.3 * spread
    weights = sum(4 * parameter.numel() for parameter in network.parameters())
    assert file.stat().st_size < 0.45 * weights
