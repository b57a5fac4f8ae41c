"""Training with real data handling against the bare forward and backward loop on tensors already in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from modelmoat.models import create_network
from modelmoat.training import FitSettings, fit
from modelmoat.training.precision import autocast, resolve_precision

LEAST = 0.85
BATCH = 128


@pytest.mark.parametrize(
    ("arch", "shape", "augment", "batches"),
    [("lenet", (1, 28, 28), "none", 40), ("resnet20", (3, 32, 32), "crop_flip", 6)],
    ids=["lenet", "resnet20"],
)
def test_data_handling_costs_little(
    arch: str,
    shape: tuple[int, int, int],
    augment: str,
    batches: int,
    in_turns: Callable[..., tuple[float, float]],
    report: Callable[[str, float, str], None],
) -> None:
    rows = BATCH * batches
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (rows,), generator=generator)
    settings = FitSettings(epochs=1, batch_size=BATCH, lr=0.01, augment=augment)  # type: ignore[arg-type]

    def ours() -> None:
        fit(network(arch, shape), images, labels, settings, seed=0)

    bare = bare_loop(arch, shape, batches)
    full_seconds, bare_seconds = in_turns(ours, bare, rounds=5)
    share = bare_seconds / full_seconds
    speeds = f"{rows / full_seconds:,.0f} against {rows / bare_seconds:,.0f} images/s"
    report(f"training throughput, {arch}, share of the bare loop", share, speeds)
    assert share >= LEAST


def network(arch: str, shape: tuple[int, int, int]) -> torch.nn.Module:
    return create_network(
        arch, num_classes=10, input_shape=shape, seed=0, mean=(0.5,) * shape[0], std=(0.25,) * shape[0]
    )


def bare_loop(arch: str, shape: tuple[int, int, int], batches: int) -> Callable[[], None]:
    """The loop in the layout and precision that measure fastest, on one batch that never changes."""
    device = torch.device("cpu")
    precision = resolve_precision("auto", device)
    batch = torch.rand(BATCH, *shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def run() -> None:
        net = network(arch, shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.train()
        optimizer = torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        for _ in range(batches):
            with autocast(precision, device):
                loss = F.cross_entropy(net(batch).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run
