"""What every evasion attack promises."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.core.registry import Method, Registry
from modelmoat.training.evasion.ball import Ball, Norm
from modelmoat.training.evasion.climb import Worst

Search = Callable[[nn.Module, Ball, Tensor, torch.Generator], Worst]
"""One attempt: network, ball, labels and source of random draws to the worst point found for each image."""


def require_radius(method: str, epsilon: float, norm: Norm = "linf") -> None:
    """Refuse a change that is no number, below 0, or beyond all pixels."""
    most = 1 if norm == "linf" else math.inf
    limits = "a number in [0, 1], as pixels are" if norm == "linf" else "a number of 0 or more"
    require(
        0 <= epsilon <= most and epsilon < math.inf, f"{method}:epsilon={epsilon}: expected {limits}, such as 8/255"
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Evasion(Method):
    """Finds images near given ones that a network gets wrong; it needs the network's gradients, not queries."""

    epsilon: float = 8 / 255
    """Radius of the allowed change, in pixels of [0, 1]."""

    norm: Norm = "linf"

    def __post_init__(self) -> None:
        require_radius(self.name, self.epsilon, self.norm)

    @abstractmethod
    def searches(self, classes: int) -> Sequence[Search]:
        """Attempts in their order; a later one sees only the images that the earlier ones left right."""

    def craft(self, network: nn.Module, inputs: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
        """The worst point found for each image: one the network gets wrong if any, else the one it is least sure of.

        The network is put in evaluation mode meanwhile; its weights stay as they are.

        Args:
            network: float images in [0, 1] to logits [N, K], on the device of ``inputs``.
            inputs: float32 [N, C, H, W] in [0, 1].
            labels: true classes, int64 [N].
            random: source of random draws, on the CPU.

        Returns:
            float32 [N, C, H, W] in [0, 1], each within ``epsilon`` of its input.

        Raises:
            ModelError: scores or gradients that are not finite.
        """
        was_training = network.training
        network.eval()
        crafted, wrong = inputs.clone(), torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        with torch.no_grad():
            classes = network(inputs[:1]).shape[1]
        for number, search in enumerate(self.searches(classes)):
            rows = (~wrong).nonzero()[:, 0]
            if not len(rows):
                break
            found = search(network, Ball(inputs[rows], self.epsilon, self.norm), labels[rows], random)
            better = rows if number == 0 else rows[found.wrong]
            crafted[better] = found.points if number == 0 else found.points[found.wrong]
            wrong[rows] = found.wrong
        network.train(was_training)
        return crafted


EVASIONS: Registry[Evasion] = Registry("evasion attack", "modelmoat.training.evasion")


def parse_evasion(reference: str) -> Evasion:
    """Build an evasion attack from ``name:param=value,param=value``.

    >>> parse_evasion("pgd:epsilon=8/255,steps=10").steps
    10
    """
    return EVASIONS.parse(reference)
