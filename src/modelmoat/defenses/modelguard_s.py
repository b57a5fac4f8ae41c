"""ModelGuard-S: many queries share one answer, so that each answer tells little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from modelmoat.core.seeds import derive
from modelmoat.defenses._l1_ball import WithinL1
from modelmoat.defenses.base import DEFENSES, Preparation
from modelmoat.defenses.prepared import PreparableDefense, PreparedModule
from modelmoat.models import Predictor

_CANDIDATES = 1000
_CONCENTRATION = 10  # for each class: candidates scatter by about epsilon / sqrt(K)
_LEAST_WEIGHT = 1e-6


@DEFENSES.register("modelguard_s")
@dataclass(frozen=True, kw_only=True, repr=False)
class ModelGuardS(WithinL1, PreparableDefense):
    r"""Serves the first earlier answer of the same top class within ``epsilon`` in L1, else the clean one, remembered.

    Each class has an ordered list of centroids. A query with clean answer y and top class m gets the first centroid of
    list m with |centroid - y|_1 <= epsilon; where there is none, y joins the list and is served. So asking again gives
    the same answer, and what is served depends on the order of all queries, whoever sent them. The lists grow until they
    cover what is asked. Labels alone undo it.

    Parameters:
        new: what joins a list: ``clean``, the clean answer, or ``drawn``: of 1,000 draws from Dirichlet(10 K y) those
            within ``epsilon`` of y with its top class, the one with the largest sum of distances to the list; the clean
            answer where no draw is left.
        seed: of the draws.
    """

    new: Literal["clean", "drawn"] = "clean"
    seed: int = 0

    paper: ClassVar[str] = (
        "Tang et al., ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks, USENIX Security 2024"
    )
    keeps_top1: ClassVar[bool] = True
    stateful: ClassVar[bool] = True
    exportable: ClassVar[bool] = False

    def prepare(self, preparation: Preparation) -> PreparedModule:
        """A responder with empty lists."""
        return Centroids(self, preparation.predictor).ready(preparation.device)

    def skeleton(self, predictor: Predictor, facts: Mapping[str, Any]) -> PreparedModule:
        """A responder whose lists are filled from the saved tensors."""
        del facts
        return Centroids(self, predictor)


class Centroids(PreparedModule):
    """A ready ModelGuard-S.

    Attributes:
        centroids: remembered answers in the order in which they came, float32 [R, K].
        owners: top class of each, int64 [R].
    """

    centroids: Tensor
    owners: Tensor

    def __init__(self, method: ModelGuardS, predictor: Predictor) -> None:
        super().__init__(method, predictor)
        self.epsilon = method.epsilon
        self._drawn, self._seed = method.new == "drawn", method.seed
        self.register_buffer("centroids", torch.zeros(0, predictor.num_classes))
        self.register_buffer("owners", torch.zeros(0, dtype=torch.int64))

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Served rows [N, K]; new centroids are remembered in the order of the rows."""
        del inputs
        if self.epsilon == 0:
            return probabilities
        top = probabilities.argmax(dim=1)
        found = self._known(probabilities, top)
        fresh: list[Tensor] = []
        owners: list[Tensor] = []
        waiting = (found < 0).nonzero()[:, 0]
        while len(waiting):  # once for each new centroid
            first = waiting[0]
            fresh.append(self._new(probabilities[first], top[first], fresh, owners))
            owners.append(top[first])
            distance = (probabilities[waiting] - fresh[-1]).abs().sum(dim=1)
            joins = (top[waiting] == top[first]) & (distance <= self.epsilon)
            joins[0] = True
            found[waiting[joins]] = len(self.owners) + len(fresh) - 1
            waiting = waiting[~joins]
        if fresh:
            self.centroids = torch.cat([self.centroids, torch.stack(fresh)])
            self.owners = torch.cat([self.owners, torch.stack(owners)])
        return self.centroids[found]

    def _new(self, y: Tensor, top: Tensor, fresh: list[Tensor], owners: list[Tensor]) -> Tensor:
        """The centroid that joins the list of class ``top`` for a clean answer y [K] that none matches."""
        if not self._drawn:
            return y
        listed = [
            self.centroids[self.owners == top],
            *(c[None] for c, own in zip(fresh, owners, strict=True) if own == top),
        ]
        number = len(self.owners) + len(fresh)
        candidates = _draws(y, derive(self._seed, "centroid", number))
        inside = (candidates - y).abs().sum(dim=1) <= self.epsilon
        candidates = candidates[inside & (candidates.argmax(dim=1) == top)]
        if not len(candidates):
            return y
        return candidates[torch.cdist(candidates, torch.cat(listed), p=1).sum(dim=1).argmax()]

    def _known(self, y: Tensor, top: Tensor) -> Tensor:
        """Index of the first remembered centroid that matches each row, int64 [N]; -1 where none does."""
        found = torch.full_like(top, -1)
        for owner in top.unique():
            rows, listed = (top == owner).nonzero()[:, 0], (self.owners == owner).nonzero()[:, 0]
            if len(listed):
                near = torch.cdist(y[rows], self.centroids[listed], p=1) <= self.epsilon
                first = listed[near.to(torch.uint8).argmax(dim=1)]
                found[rows] = torch.where(near.any(dim=1), first, -1)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Take lists of any length."""
        for name in ("centroids", "owners"):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape[1:] == getattr(self, name).shape[1:]:
                setattr(self, name, torch.empty_like(saved, device=self.owners.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _draws(y: Tensor, seed: int) -> Tensor:
    """Rows from Dirichlet(10 K y), float32 [1000, K], for y [K]; the same on every device."""
    weights = np.maximum(y.cpu().double().numpy() * _CONCENTRATION * len(y), _LEAST_WEIGHT)
    rows = np.random.default_rng(seed).dirichlet(weights, _CANDIDATES)
    return torch.from_numpy(rows).to(y)
