"""An exported ResNet-20 in int8 against float32, by each runtime, on one core: one image and 64."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import quantiles

import pytest
import torch
from torch import Tensor, nn

from modelmoat.models import create_network
from modelmoat.models.onnx_writer import write_onnx
from modelmoat.quantization import Bits, Simulated
from modelmoat.training import TensorImages

pytest.importorskip("torchao")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

Call = Callable[[], object]

SHAPE = (3, 32, 32)
LEAST = 2.0  # over float32 by torch, as victims are served
LEAST_OVER_BEST = 1.7  # over float32 by whichever runtime is fastest, on a CPU without VNNI
TURNS, CALLS = {1: 60, 64: 20}, {1: 5, 64: 1}  # of a batch size: turns, and calls in each


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """All runtimes on one core: threads that wait for work do not take it from the next call."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(before)})
    torch.set_num_threads(1)
    yield
    os.sched_setaffinity(0, before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, dict[str, Path]]:
    """The network, and its file in float32 and in int8."""
    network = create_network("resnet20", num_classes=10, input_shape=SHAPE, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    noise = TensorImages(torch.rand(128, *SHAPE, generator=torch.Generator().manual_seed(0)))
    network.train()(noise.tensor)  # batch norm with statistics
    network.eval()
    simulated = Simulated(network, Bits())
    simulated.calibrate(noise, [torch.arange(128)])
    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for name, module in (("float32", copy.deepcopy(network)), ("int8", simulated.converted())):
        found[name] = folder / f"{name}.onnx"
        write_onnx(found[name], module, input_shape=SHAPE, outputs="logits", class_names=(), label=name)
    return network.to(memory_format=torch.channels_last), found


def by_torch(network: nn.Module, batch: Tensor) -> Call:
    images = batch.contiguous(memory_format=torch.channels_last)

    def call() -> object:
        with torch.inference_mode():
            return network(images)

    return call


def by_onnxruntime(path: Path, batch: Tensor) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = (
        torch.get_num_threads()
    )  # left alone, it takes the cores that the process may not use
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = {"images": batch.numpy()}
    return lambda: session.run(None, images)


def by_openvino(path: Path, batch: Tensor) -> Call:
    model = openvino.Core().read_model(str(path))
    model.reshape(list(batch.shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(batch.numpy(), shared_memory=True))
    return lambda: request.infer(share_outputs=True)


def by_inductor(network: nn.Module, batch: Tensor) -> Call:
    """By torch's own compiler, with weights as constants."""
    from torch._inductor import config

    program = torch.compile(copy.deepcopy(network), dynamic=False)
    images = batch.contiguous(memory_format=torch.channels_last)

    def call() -> object:
        with config.patch(freezing=True), torch.inference_mode():
            return program(images)

    return call


def undisturbed(calls: Mapping[str, Call], size: int) -> dict[str, float]:
    """Seconds of a call at the tenth percentile of its turns: how fast it is where nobody else is at work."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(TURNS[size] + 1):
        for name, call in calls.items():
            call()  # its own weights and code are in the cache again
            started = time.perf_counter()
            for _ in range(CALLS[size]):
                call()
            if turn:
                times[name].append((time.perf_counter() - started) / CALLS[size])
    return {name: quantiles(values, n=10)[0] for name, values in times.items()}


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("size", [1, 64])
def test_int8_is_faster_than_float32(
    size: int,
    files: tuple[nn.Module, dict[str, Path]],
    report: Callable[[str, float, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, paths = files
    batch = torch.rand(size, *SHAPE)
    calls = {"float32 torch": by_torch(network, batch)}
    if shutil.which("g++"):
        calls["float32 inductor"] = by_inductor(network, batch)
    for numbers, path in paths.items():
        calls[f"{numbers} onnxruntime"] = by_onnxruntime(path, batch)
        calls[f"{numbers} openvino"] = by_openvino(path, batch)
    seconds = undisturbed(calls, size)
    with capsys.disabled():
        print(f"\nbatch {size}: " + ", ".join(f"{name} {value * 1e3:.3f} ms" for name, value in seconds.items()))
    exact, int8 = (
        min((value, name) for name, value in seconds.items() if name.startswith(numbers))
        for numbers in ("float32", "int8")
    )
    over_torch, over_best = seconds["float32 torch"] / int8[0], exact[0] / int8[0]
    report(f"{int8[1]} over float32 torch, batch {size}", over_torch, "ResNet-20, one core")
    report(f"{int8[1]} over {exact[1]}, batch {size}", over_best, "ResNet-20, one core, the fastest of each")
    assert over_torch >= LEAST
    assert over_best >= LEAST_OVER_BEST
