"""GRAD2: answers whose training gradient points where the defender wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelmoat.core.errors import OptionError, require
from modelmoat.defenses import _surrogate
from modelmoat.defenses._directional import directional
from modelmoat.defenses._gram import gram_times
from modelmoat.defenses._l1_ball import WithinL1
from modelmoat.defenses.base import DEFENSES, Preparation
from modelmoat.defenses.prepared import PreparableDefense, PreparedModule
from modelmoat.models import Classifier, Predictor


@DEFENSES.register("grad_redirection")
@dataclass(frozen=True, kw_only=True, repr=False)
class GradRedirection(WithinL1, PreparableDefense):
    r"""Moves mass toward the class whose gradient in a surrogate goes farthest along a chosen direction z.

    With gains g_k = <gradient of log F_k(x; w), z> over all parameters w, it serves the row that maximizes sum_k y~_k g_k
    among rows within ``epsilon`` of y in L1: the best class receives min(1 - y_a, epsilon / 2), taken from the classes in
    increasing order of gain. The top-1 may change.

    Parameters:
        target: ``ones``, as published: z = 1, all gains from one forward-mode pass. ``weights``: z = w, so that weights
            grow. ``min_inner``: z = -Gᵀy for each row, against what the clean answer would have taught.
        surrogate: ``student`` (trained on the victim's answers to its own training images for ``epochs``; the paper's
            learns on the attacker's pool, which is more than a defender knows), ``random``, or an artifact directory.
        epochs: of the student; 10 as published.
        arch: architecture of a surrogate made here; the victim's if None.
        seed: of the surrogate, beside the seed of the preparation.
        memory_mb: bound on the gradients held at a time for ``min_inner``.
    """

    target: Literal["ones", "weights", "min_inner"] = "ones"
    surrogate: str = "student"
    epochs: int = 10
    arch: str | None = None
    seed: int = 0
    memory_mb: float = 512.0

    paper: ClassVar[str] = (
        "Mazeika et al., How to Steer Your Adversary: Targeted and Efficient Model Stealing Defenses, ICML 2022"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"inputs", "training"})
    exportable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs >= 1, f"grad_redirection:epochs={self.epochs}: expected at least 1")
        require(self.memory_mb > 0, f"grad_redirection:memory_mb={self.memory_mb}: expected a positive number")
        if self.surrogate not in ("student", "random") and self.arch is not None:
            raise OptionError(
                f"grad_redirection:arch={self.arch} is for surrogate=student or random; fix: leave arch out"
            )

    def prepare(self, preparation: Preparation) -> PreparedModule:
        """Make, train or load the surrogate; raises as its maker does."""
        return Redirector(self, preparation.predictor, self._network(preparation)).ready(preparation.device)

    def skeleton(self, predictor: Predictor, facts: Mapping[str, Any]) -> PreparedModule:
        """The module with any surrogate of the saved shapes."""
        return Redirector(self, predictor, _surrogate.blank_network(predictor, facts))

    def _network(self, preparation: Preparation) -> Classifier:
        if self.surrogate not in ("student", "random"):
            return _surrogate.load_network(self.surrogate, self.name, preparation.predictor)
        network = _surrogate.random_network(preparation, self.name, arch=self.arch, seed=self.seed)
        if self.surrogate == "student":
            _surrogate.train_student(network, preparation, epochs=self.epochs, seed=preparation.seed)
        else:
            _surrogate.fill_batch_norm(network, preparation.train, preparation.seed)
        return network


class Redirector(PreparedModule):
    """A ready GRAD2 with its surrogate."""

    def __init__(self, method: GradRedirection, predictor: Predictor, network: Classifier) -> None:
        super().__init__(method, predictor)
        self.redirection = method
        self.network = network

    def facts(self) -> dict[str, Any]:
        """Architecture of the surrogate."""
        return _surrogate.network_facts(self.network)

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Redirected rows [N, K]."""
        if self.redirection.epsilon == 0:
            return probabilities
        return redirect(probabilities, self.gains(probabilities, inputs), self.redirection.epsilon)

    def gains(self, y: Tensor, inputs: Tensor) -> Tensor:
        """What a unit of probability on each class adds along the target direction, [N, K]."""
        match self.redirection.target:
            case "ones":
                return directional(self.network, inputs, torch.ones_like)
            case "weights":
                return directional(self.network, inputs, lambda weight: weight)
            case "min_inner":
                return -gram_times(self.network, inputs, y, self.redirection.memory_mb)


def redirect(y: Tensor, gains: Tensor, epsilon: float) -> Tensor:
    """Rows on the simplex within ``epsilon`` of y in L1 with the largest sum of gains, [N, K]: an exact linear program.

    >>> redirect(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.0, 2.0, 1.0]]), 0.8)
    tensor([[0.1000, 0.7000, 0.2000]])
    """
    best = gains.argmax(dim=1, keepdim=True)
    others = y.scatter(1, best, 0.0)
    moved = others.sum(dim=1, keepdim=True).clamp_max(epsilon / 2)
    order = gains.argsort(dim=1)
    stock = others.gather(1, order)
    before = stock.cumsum(dim=1) - stock
    taken = torch.minimum((moved - before).clamp_min(0.0), stock)
    left = torch.zeros_like(y).scatter(1, order, stock - taken)
    return left.scatter_add(1, best, y.gather(1, best) + taken.sum(dim=1, keepdim=True))
