"""BDPL: randomize labels near the decision boundary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelmoat.core.errors import OptionError, require
from modelmoat.defenses._noise import input_seeds, uniform
from modelmoat.defenses.base import DEFENSES, Defense, Preparation
from modelmoat.defenses.dial import Dial
from modelmoat.defenses.prepared import PreparedModule, restore_module
from modelmoat.models import Predictor, TorchPredictor
from modelmoat.victims import Responder


@DEFENSES.register("bdpl")
@dataclass(frozen=True, kw_only=True, repr=False)
class Bdpl(Defense):
    r"""Swaps the top two classes at random where a query lies near the decision boundary, and only there.

    Within the zone the true label is kept with probability

        P = 1/2 + sqrt(e^(2 epsilon) - 1) / (2 + 2 e^epsilon),

    one half at epsilon = 0 and towards one for large epsilon; otherwise the two largest probabilities change places.
    The draw belongs to the pixels, rounded to ``levels`` per unit, so that a query asked again, or with noise below half
    a level, is answered in the same way and averaging teaches nothing. The paper treats two classes and probes each
    feature; swapping the top two of many classes, and the zones below, are this package's adaptation.

    - ``zone="gap"``: the top two probabilities differ by less than ``width``.
    - ``zone="logit_gap"``: their logits do, as in naive public code (width 0.5 there).
    - ``zone="probe"``: one step of ``width`` per pixel along the sign of the gradient of (second - first logit), clipped
      to [0, 1], changes the victim's label. Costs two forward passes and a backward pass, needs the victim's gradients
      and has to be prepared; it cannot be exported.

    ``mechanism="randomized_response"`` swaps with probability 1 / (1 + e^epsilon) instead, as that code does.

    Raises:
        OptionError: parameters outside their limits; a victim without gradients for ``zone="probe"``.

    >>> rows = torch.tensor([[0.50, 0.45, 0.05], [0.90, 0.08, 0.02]])
    >>> Bdpl(epsilon=0.0, seed=1).perturb(rows)
    tensor([[0.4500, 0.5000, 0.0500],
            [0.9000, 0.0800, 0.0200]])
    """

    epsilon: float = 0.5
    """Privacy budget; 0 swaps half of the answers in the zone."""
    width: float = 0.125
    """Of the zone; 0 changes nothing."""
    zone: Literal["gap", "logit_gap", "probe"] = "gap"
    """What tells that a query is near the boundary."""
    mechanism: Literal["boundary", "randomized_response"] = "boundary"
    """How often to swap."""
    levels: int = 255
    """Steps per unit that pixels are rounded to before the draw."""
    seed: int = 0
    """Of the draw, beside the pixels."""

    paper: ClassVar[str] = "Zheng et al., BDPL: A Boundary Differentially Private Layer, ESORICS 2019"
    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})
    identity: ClassVar[dict[str, Any] | None] = {"width": 0.0}

    def __post_init__(self) -> None:
        require(self.epsilon >= 0, f"bdpl:epsilon={self.epsilon}: expected 0 or more, such as 0.5")
        require(0 <= self.width < math.inf, f"bdpl:width={self.width}: expected 0 or more, such as 0.125")
        require(
            self.zone == "logit_gap" or self.width <= 1,
            f"bdpl:width={self.width}: expected at most 1 for zone={self.zone}, which is the whole range",
        )
        require(self.levels >= 1, f"bdpl:levels={self.levels}: expected at least 1, such as 255")
        self._declare(exportable=self.zone != "probe")

    @property
    def keep_probability(self) -> float:
        """P, how often a label in the zone stays.

        >>> Bdpl(epsilon=0.0).keep_probability, round(Bdpl(epsilon=1.0).keep_probability, 4)
        (0.5, 0.8399)
        """
        decay = math.exp(-self.epsilon)
        if self.mechanism == "randomized_response":
            return 1 / (1 + decay)
        return 0.5 + math.sqrt(1 - decay**2) / (2 + 2 * decay)

    def dial(self, num_classes: int) -> Dial:
        """``width`` of the zone."""
        del num_classes
        return Dial(parameter="width", weakest=0.0, strongest=50.0 if self.zone == "logit_gap" else 1.0)

    @property
    def l1_bound(self) -> float:
        """Twice the largest gap in the zone; no promise where the zone is probed."""
        if self.zone == "probe":
            return 2.0
        return 2 * (self.width if self.zone == "gap" else math.tanh(self.width / 2))

    def prepare(self, preparation: Preparation) -> Responder:
        """Ready as it is, but for ``zone="probe"``, which takes the victim's network."""
        if self.zone != "probe":
            return self
        return ProbedBdpl(self, preparation.predictor).ready(preparation.device)

    def restore(self, predictor: Predictor, tensors: Mapping[str, Tensor], *, device: str = "cpu") -> Responder:
        """Ready again; raises `ModelError` for tensors of another defense or victim."""
        if self.zone != "probe":
            return super().restore(predictor, tensors, device=device)
        return restore_module(self, lambda victim, _: ProbedBdpl(self, victim), predictor, tensors, device)

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Rows with draws that belong to their inputs."""
        return self.swap(probabilities, self.near(probabilities), self.seeds(inputs))

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Rows with draws that belong to the rows themselves, for use without inputs."""
        return self.swap(probabilities, self.near(probabilities), input_seeds(probabilities, self.seed))

    def near(self, probabilities: Tensor) -> Tensor:
        """Which rows [N, K] lie in the zone, bool [N]; raises `OptionError` where that has to be probed."""
        if self.zone == "probe":
            super().perturb(probabilities)  # says that it is not ready
        y = probabilities.float() if self.zone == "gap" else probabilities.float().log()
        first, second = (y.gather(1, index)[:, 0] for index in _top_two(probabilities))
        return first - second < self.width

    def seeds(self, inputs: Tensor) -> Tensor:
        """One seed for each input, the same for inputs that round to the same levels; int64 [N]."""
        return input_seeds(torch.round(inputs.float() * self.levels), self.seed)

    def swap(self, probabilities: Tensor, near: Tensor, seeds: Tensor) -> Tensor:
        """Exchange the two largest entries of rows in the zone, with probability 1 - P each."""
        first, second = _top_two(probabilities)
        turned = (near & (uniform(seeds, 1)[:, 0] >= self.keep_probability))[:, None]
        high, low = probabilities.gather(1, first), probabilities.gather(1, second)
        rows = probabilities.scatter(1, first, torch.where(turned, low, high))
        return rows.scatter(1, second, torch.where(turned, high, low))


class ProbedBdpl(PreparedModule):
    """BDPL whose zone is found by a step along the victim's gradient."""

    def __init__(self, method: Bdpl, predictor: Predictor) -> None:
        super().__init__(method, predictor)
        if not isinstance(predictor, TorchPredictor):
            raise OptionError(
                f"defense '{method.spec}' needs gradients of the victim, and '{predictor.reference}' gives none; "
                "fix: zone=gap, which looks at answers alone"
            )
        self._bdpl = method
        self._network = (predictor.network,)  # the victim's own, in a tuple so as not to become part of this module
        self._device = predictor.device

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Rows with draws that belong to their inputs."""
        near = self._flips(inputs.to(self._device)).to(probabilities.device)
        return self._bdpl.swap(probabilities, near, self._bdpl.seeds(inputs).to(probabilities.device))

    def _flips(self, inputs: Tensor) -> Tensor:
        """Whether one step toward the second class changes the label, bool [N]."""
        network = self._network[0].eval()
        moved = (inputs + self._bdpl.width * _uphill(network, inputs)).clamp(0, 1)
        return _labels(network, inputs) != _labels(network, moved)


def _uphill(network: nn.Module, inputs: Tensor) -> Tensor:
    """Sign of the gradient of second minus first logit, [N, C, H, W]."""
    with torch.enable_grad():
        images = inputs.detach().clone().requires_grad_(True)
        logits = network(images).float()
        first, second = _top_two(logits)
        (gradient,) = torch.autograd.grad((logits.gather(1, second) - logits.gather(1, first)).sum(), images)
    return gradient.sign()


def _labels(network: nn.Module, inputs: Tensor) -> Tensor:
    labels: Tensor = network(inputs).argmax(dim=1)
    return labels


def _top_two(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and second largest entry of each row, the first of equal ones first; indices [N, 1] each."""
    first = rows.argmax(dim=1, keepdim=True)
    return first, rows.scatter(1, first, -torch.inf).argmax(dim=1, keepdim=True)
