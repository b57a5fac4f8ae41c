"""Maximizing the angle between what a thief learns and what it would have learned: oracles, interpolation, set-up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelmoat.core.errors import OptionError, require
from modelmoat.defenses import _surrogate
from modelmoat.defenses._gram import DenseGram, Gram, LastLayerGram, per_sample_gram
from modelmoat.defenses.base import Preparation
from modelmoat.defenses.dial import Dial
from modelmoat.defenses.prepared import PreparableDefense, PreparedModule
from modelmoat.models import Classifier, Predictor

_DIAMETER = {"l1": 2.0, "l2": 2.0**0.5}
_NO_UPDATE = 1e-12
TIE = 1e-5


@dataclass(frozen=True, kw_only=True, repr=False)
class Poisoning(PreparableDefense):
    """What MAD and MAD-argmax share: parameters, surrogate, and the step from an answer toward its vertex."""

    epsilon: float = 1.0
    """Radius of the ball around the clean answer; 0 changes nothing."""
    norm: Literal["l1", "l2"] = "l1"
    """Of that ball."""
    layers: Literal["last", "all"] = "last"
    """Gradients of the surrogate's last layer, or of all its parameters."""
    normalized: bool = True
    """Maximize the angle between gradients, or else their distance."""
    surrogate: str = "random"
    """``random``, ``uniform`` or an artifact directory."""
    arch: str | None = None
    """Architecture of the random surrogate; the victim's if None."""
    seed: int = 0
    """Of the random surrogate, beside the seed of the preparation."""
    memory_mb: float = 512.0
    """Most memory for per-sample gradients, in MiB."""

    paper: ClassVar[str] = (
        "Orekondy et al., Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks, ICLR 2020"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"inputs", "training"})
    identity: ClassVar[dict[str, Any] | None] = {"epsilon": 0.0}

    def __post_init__(self) -> None:
        most = _DIAMETER[self.norm]
        require(
            0 <= self.epsilon <= most,
            f"{self.name}:epsilon={self.epsilon}: expected 0 to {most:.4g}, the diameter of the simplex in {self.norm}",
        )
        require(self.memory_mb > 0, f"{self.name}:memory_mb={self.memory_mb}: expected a positive number, such as 512")
        if self.surrogate == "uniform" and self.layers == "all":
            raise OptionError(
                f"{self.name}:surrogate=uniform has no layers to differentiate; fix: layers=last, or surrogate=random"
            )
        if self.surrogate != "random" and self.arch is not None:
            raise OptionError(f"{self.name}:arch={self.arch} is for surrogate=random only; fix: leave arch out")
        self._declare(exportable=self.layers == "last")

    def dial(self, num_classes: int) -> Dial:
        """``epsilon``, up to the diameter of the simplex."""
        del num_classes
        return Dial(parameter="epsilon", weakest=0.0, strongest=_DIAMETER[self.norm])

    @property
    def l1_bound(self) -> float:
        """``epsilon`` in L1; no promise in L2."""
        return self.epsilon if self.norm == "l1" else 2.0

    def prepare(self, preparation: Preparation) -> PreparedModule:
        """Make or load the surrogate; raises as its maker does."""
        return Poisoner(self, preparation.predictor, self._network(preparation)).ready(preparation.device)

    def skeleton(self, predictor: Predictor, facts: Mapping[str, Any]) -> PreparedModule:
        """The module with any surrogate of the saved shapes."""
        network = None if self.surrogate == "uniform" else _surrogate.blank_network(predictor, facts)
        return Poisoner(self, predictor, network)

    @abstractmethod
    def vertex(self, y: Tensor, gram: Gram, pull: Tensor) -> Tensor:
        """The candidate answer whose update is farthest from that of y, [N, K]."""

    def finish(self, rows: Tensor, y: Tensor) -> Tensor:
        """Repairs after the step."""
        del y
        return rows

    def score(self, total: Tensor, square: Tensor, count: Tensor | int) -> Tensor:
        """What an oracle maximizes, for the mean of ``count`` rows of G.

        -cos of the angle between Gᵀy* and Gᵀy; without ``normalized``, |Gᵀ(y* - y)|^2 up to a constant of the row.

        Args:
            total: sum of the candidate classes' entries of ``pull``.
            square: squared length of the sum of their rows of G.
            count: number of classes.
        """
        if self.normalized:
            return (-total * torch.rsqrt(square)).masked_fill(square <= _NO_UPDATE, -torch.inf)
        return square / count**2 - 2 * total / count

    def _network(self, preparation: Preparation) -> Classifier | None:
        if self.surrogate == "uniform":
            return None
        if self.surrogate != "random":
            return _surrogate.load_network(self.surrogate, self.name, preparation.predictor)
        network = _surrogate.random_network(preparation, "mad", arch=self.arch, seed=self.seed)
        _surrogate.fill_batch_norm(network, preparation.train, preparation.seed)
        return network


class Poisoner(PreparedModule):
    """A ready MAD or MAD-argmax with its surrogate; None stands for the surrogate that always says 1 / K."""

    def __init__(self, method: Poisoning, predictor: Predictor, network: Classifier | None) -> None:
        super().__init__(method, predictor)
        self.poisoning = method
        self.network: nn.Module | None = network
        self._facts = {} if network is None else _surrogate.network_facts(network)

    def facts(self) -> dict[str, Any]:
        """Architecture of the surrogate."""
        return self._facts

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Poisoned rows [N, K]."""
        method = self.poisoning
        if method.epsilon == 0:
            return probabilities
        y = probabilities.double()  # differences of nearly equal numbers decide
        gram = self.gram(y, inputs)
        pull = gram.times(y)
        update = (y * pull).sum(dim=1, keepdim=True)  # squared length of what the thief would learn
        if method.normalized:
            pull = pull * torch.rsqrt(update.clamp_min(_NO_UPDATE))
        rows = step_toward(y, method.vertex(y, gram, pull), method.epsilon, method.norm).float()
        return torch.where(update > _NO_UPDATE, method.finish(rows, probabilities), probabilities)

    def gram(self, y: Tensor, inputs: Tensor) -> Gram:
        """Inner products of the surrogate's gradients at the inputs, float64."""
        if self.network is None:
            return LastLayerGram(torch.full_like(y, 1 / y.shape[1]))
        q = torch.softmax(self.network(inputs).double(), dim=1)
        if self.poisoning.layers == "last":
            return LastLayerGram(q)
        return DenseGram.cleared(per_sample_gram(self.network, inputs, self.poisoning.memory_mb).double(), q)


def step_toward(y: Tensor, target: Tensor, epsilon: float, norm: str) -> Tensor:
    """Rows y + a (y* - y) with a = min(1, epsilon / |y* - y|): as far toward y* as the ball around y goes, [N, K].

    >>> step_toward(torch.tensor([[0.75, 0.25]]), torch.tensor([[0.0, 1.0]]), 1.0, "l1")
    tensor([[0.2500, 0.7500]])
    """
    way = target - y
    distance = way.abs().sum(dim=1, keepdim=True) if norm == "l1" else way.square().sum(dim=1, keepdim=True).sqrt()
    share = (epsilon / distance.clamp_min(_NO_UPDATE)).clamp_max(1.0)
    return y + share * way


def first_best(scores: Tensor) -> Tensor:
    """Index of the first score within 1e-5 of its row's largest, [N, 1]: rounding does not decide between equals."""
    near = scores >= scores.amax(dim=1, keepdim=True) - TIE
    return near.to(torch.uint8).argmax(dim=1, keepdim=True)
