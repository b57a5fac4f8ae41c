"""Biases that make up for rounded weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from modelmoat.quantization.operators import MULTIPLY


@torch.no_grad()
def correct_biases(graph: GraphModule, batches: Iterable[Tensor]) -> None:
    """Take from each layer's bias what the rounding of its weights adds to its outputs on average.

    A layer (W + dW) x + b with rounded weights is off by dW x, whose mean over images (and pixels) is a constant of each
    channel: Nagel et al., Data-Free Quantization, ICCV 2019, section 4.2, with the mean measured rather than derived.

    Args:
        graph: a simulated network with its ranges; layers without a bias stay as they are.
        batches: float images [B, C, H, W].
    """
    measured = _Rounded(graph)
    for batch in batches:
        measured.run(batch)
    for name, total in measured.totals.items():
        graph.get_parameter(name).sub_(total / measured.images)


class _Rounded(Interpreter):
    """Runs a graph and adds up, by bias, what its layer's outputs owe to rounded weights."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.totals: dict[str, Tensor] = {}
        self.images = 0

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.images += len(args[0])
        return super().run(*args, **kwargs)

    def run_node(self, n: Node) -> Any:
        if n.target in MULTIPLY and len(n.args) > 2 and _is_parameter(n.args[2]) and _is_rounded(n.args[1]):
            inputs, rounded, _, *rest = self.fetch_args_kwargs_from_env(n)[0]
            exact = self.fetch_attr(str(n.args[1].args[0].target))  # type: ignore[union-attr]
            change = n.target(inputs, rounded - exact, None, *rest)
            name = str(n.args[2].target)  # type: ignore[union-attr]
            mean = change.flatten(2).mean(dim=2) if change.ndim > 2 else change
            self.totals[name] = self.totals.get(name, 0) + mean.sum(dim=0)
        return super().run_node(n)


def _is_parameter(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _is_rounded(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_module" and _is_parameter(node.args[0])
