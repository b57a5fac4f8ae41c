"""A network that computes in float32 what its int8 form will compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from modelmoat.core.errors import ModelError
from modelmoat.models import Classifier, load_card
from modelmoat.models.artifact import read_state, untrained
from modelmoat.models.packages import import_extra, quiet
from modelmoat.models.request import first_line
from modelmoat.quantization.bias import correct_biases
from modelmoat.quantization.bits import Bits
from modelmoat.quantization.operators import LINEAR, MOVE, calls, is_head
from modelmoat.quantization.quantizer import make_quantizer
from modelmoat.training import Images, TrainingDiverged, as_float

_AVERAGING = 0.01  # weight of the latest batch in a running mean


class Simulated(nn.Module):
    """A copy of a classifier whose weights and activations are rounded to integers and back in every forward pass.

    Batch norm is folded into the convolutions first (static folding: Nagel et al. 2021, arXiv:2106.08295, section 4.2),
    so there are no statistics left to update. Gradients pass the rounding straight through where a value is inside its
    range, and are zero outside. Ranges of activations are running means of batch extremes, taken in training mode until
    :meth:`freeze`; ranges of weights follow the weights. In evaluation mode no range changes.

    Args:
        network: takes float32 images [N, C, H, W] in [0, 1], returns logits; it is copied, not changed.
        bits: the integer grids.
        input_shape: channels, height and width; the network's own by default.

    Raises:
        ModelError: layers that cannot be quantized, by name; a network that torch.export cannot trace; no torchao.
    """

    def __init__(self, network: nn.Module, bits: Bits, *, input_shape: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        import_extra("torchao.quantization.pt2e", extra="quantize", reference="int8")
        shape = input_shape or (network.input_shape if isinstance(network, Classifier) else None)
        if shape is None:
            raise ModelError("quantization needs the shape of the images; fix: give input_shape")
        self.bits, self.input_shape = bits, shape
        self.frozen = False
        self._graph = _prepared(network, bits, shape)
        self._moved = _take_out_repeats(self._graph)
        self.train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of images [N, C, H, W] in [0, 1].

        Raises:
            TrainingDiverged: there is no range of activations that are no numbers.
        """
        try:
            logits: Tensor = self._graph(images)
        except AssertionError as error:
            raise TrainingDiverged(
                f"an int8 network has no range for its activations ({error}); expected finite numbers; fix: lower the "
                "learning rate (tune_lr)"
            ) from error
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the last linear layer sees, [N, F], of images [N, C, H, W] in [0, 1].

        Raises:
            ModelError: the network does not end in a linear layer.
        """
        features: Tensor = Interpreter(self._graph, graph=self._up_to_head).run(images)
        return features

    @property
    def head_weight(self) -> Tensor:
        """W [K, F] of the last linear layer, which stays in float32; raises `ModelError` as `features`."""
        return self._graph.get_parameter(str(_linear_head(self._graph).all_input_nodes[1].target))

    @cached_property
    def _up_to_head(self) -> Graph:
        return _part_before(_linear_head(self._graph))

    def train(self, mode: bool = True) -> Self:
        """Watch ranges in training mode; the graph computes the same in both."""
        self.training = mode
        for rounding in self.roundings():
            rounding.enable_observer(mode and (_is_weight(rounding) or not self.frozen))
        return self

    def freeze(self, frozen: bool = True) -> None:
        """Keep the ranges of activations as they are from now on, or let them move again."""
        self.frozen = frozen
        self.train(self.training)

    def roundings(self) -> Iterator[Any]:
        """The modules that round to integers and back."""
        return (module for module in self._graph.modules() if hasattr(module, "fake_quant_enabled"))

    @torch.no_grad()
    def calibrate(self, images: Images, batches: list[Tensor]) -> None:
        """Set the range of each activation to the mean of its extremes over batches of rows, computed in float32."""
        device = next(self._graph.parameters()).device
        for number, rows in enumerate(batches):
            self._watch(averaging=1 / (number + 1))
            self._graph(_floats(images, rows, device))
        for rounding in self.roundings():
            rounding.enable_fake_quant(True)
            if not _is_weight(rounding):
                rounding.activation_post_process.averaging_constant = _AVERAGING
        self.train(self.training)

    def correct_biases(self, images: Images, batches: list[Tensor]) -> None:
        """Make up for what rounding weights adds to each layer's outputs on average, over batches of rows."""
        device = next(self._graph.parameters()).device
        correct_biases(self._graph, (_floats(images, rows, device) for rows in batches))

    def copy(self) -> Self:
        """Another one in the same state."""
        with quiet():
            return copy.deepcopy(self)

    def converted(self) -> GraphModule:
        """The same network with int8 weights and integer activations, on the CPU, as a graph that can be exported."""
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        with quiet():
            graph = copy.deepcopy(self._graph).cpu()
            _put_back_repeats(graph, self._moved)
            made: GraphModule = convert_pt2e(graph)
        return made

    def _watch(self, *, averaging: float) -> None:
        """Look at float32 activations; the latest batch counts with ``averaging``."""
        for rounding in self.roundings():
            rounding.enable_observer(True)
            rounding.enable_fake_quant(False)
            if not _is_weight(rounding):
                rounding.activation_post_process.averaging_constant = averaging


def restore_simulated(folder: Path) -> Simulated:
    """The simulated form of an int8 victim, in evaluation mode on the CPU: for gradients and features, and to be converted again.

    Raises:
        ModelError: no int8 victim in the folder, or damaged files.
    """
    card = load_card(folder)
    if card.quantization is None:
        raise ModelError(f"'{folder}' is no int8 victim; fix: give one that ptq, qat or divqat made")
    bits = Bits(
        weights=card.quantization.weight_bits,
        per_channel=card.quantization.per_channel,
        reduce_range=card.quantization.reduce_range,
    )
    simulated = Simulated(untrained(folder, card), bits)
    try:
        simulated.load_state_dict(read_state(folder, card))
    except RuntimeError as error:
        raise ModelError(f"'{folder}' does not fit this version's int8 {card.arch}; fix: train it again") from error
    return simulated.train(False)


def _floats(images: Images, rows: Tensor, device: torch.device) -> Tensor:
    return as_float(images.batch(rows).to(device)).contiguous(memory_format=torch.channels_last)


def _prepared(network: nn.Module, bits: Bits, shape: tuple[int, int, int]) -> GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    own = copy.deepcopy(network).cpu().eval()
    example = torch.zeros(2, *shape).contiguous(memory_format=torch.channels_last)
    with quiet():
        try:
            program = torch.export.export(own, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        except Exception as error:
            raise ModelError(
                f"torch.export cannot trace the network: {first_line(error)}; fix: a forward pass without branches on values"
            ) from error
        graph: GraphModule = prepare_pt2e(program.module(check_guards=False), make_quantizer(bits))
    return graph.requires_grad_(True)  # folding leaves the biases that it makes without gradients


def _take_out_repeats(graph: GraphModule) -> dict[str, str]:
    """Take out the roundings after operators that only move integers: they would change nothing.

    Returns:
        For each such operator's node, the module that rounded what it moves.
    """
    first: dict[int, str] = {}
    moved = {}
    for node in [node for node in graph.graph.nodes if node.op == "call_module"]:
        name, before = str(node.target), node.args[0]
        earlier = first.setdefault(id(graph.get_submodule(name)), name)
        if earlier != name and isinstance(before, Node) and before.target in MOVE:
            moved[before.name] = earlier
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
            graph.delete_submodule(name)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return moved


def _put_back_repeats(graph: GraphModule, moved: dict[str, str]) -> None:
    """Let the result of every operator that moves integers be integers again."""
    for node in [node for node in calls(graph) if node.name in moved]:
        readers = list(node.users)
        with graph.graph.inserting_after(node):
            after = graph.graph.call_module(moved[node.name], (node,))
        after.meta = dict(node.meta)
        for reader in readers:
            reader.replace_input_with(node, after)
    graph.recompile()


def _linear_head(graph: GraphModule) -> Node:
    """The linear layer that a network ends in."""
    last = next(node for node in calls(graph) if is_head(node))
    if last.target != LINEAR:
        raise ModelError(
            f"the network ends in {last.target}, expected a linear layer; fix: give one whose last layer is nn.Linear"
        )
    return last


def _part_before(node: Node) -> Graph:
    """The graph up to the first input of a node, to run with the attributes of the whole one."""
    part, copies = Graph(), dict[Node, Node]()
    for earlier in node.graph.nodes:
        if earlier is node:
            break
        copies[earlier] = part.node_copy(earlier, copies.__getitem__)
    part.output(copies[node.all_input_nodes[0]])
    return part


def _is_weight(rounding: Any) -> bool:
    return bool(rounding.dtype == torch.int8)
