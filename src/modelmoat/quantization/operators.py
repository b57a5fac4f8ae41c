"""Operators of exported graphs, by what they do to integers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

_aten = torch.ops.aten

CONVOLVE = _aten.conv2d.default
NORM = _aten.batch_norm.default
MAX_POOL = _aten.max_pool2d.default
LINEAR = _aten.linear.default
MULTIPLY = (CONVOLVE, LINEAR)
RELU = (_aten.relu.default, _aten.relu_.default)
ADD = (_aten.add.Tensor, _aten.add_.Tensor)
AVERAGE = (_aten.adaptive_avg_pool2d.default, _aten.avg_pool2d.default, _aten.mean.dim)
MOVE = (  # integers in, some of the same integers out
    MAX_POOL,
    _aten.slice.Tensor,
    _aten.pad.default,
    _aten.flatten.using_ints,
    _aten.view.default,
    _aten.reshape.default,
)


def calls(model: GraphModule) -> Iterator[Node]:
    """Nodes that call an operator, in order."""
    return (node for node in model.graph.nodes if node.op == "call_function")


def is_head(node: Node) -> bool:
    """Whether a network ends in the operator that a node calls."""
    return any(user.op == "output" for user in node.users)


def only_user(node: Node) -> Node | None:
    """The one node that reads this one's result; None where there are more or none."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None
