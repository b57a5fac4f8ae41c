"""Random noise: the baseline that any deliberate perturbation has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.defenses._checks import checked
from modelmoat.defenses._noise import input_seeds, mix, normal, uniform
from modelmoat.defenses.base import DEFENSES, Defense, Preparation
from modelmoat.defenses.dial import Dial
from modelmoat.defenses.prepared import PreparedModule, restore_module
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers, Responder

Kind = Literal["logit", "direction", "probability"]
_EDGE = 1e-7


@DEFENSES.register("random_noise")
@dataclass(frozen=True, kw_only=True, repr=False)
class RandomNoise(Defense):
    """Adds noise to answers, in one of the three published forms.

    - ``logit``: normal noise of L2 length at most ``strength`` on logit(y), through a sigmoid, renormalized.
    - ``direction``: (1 - strength/2) y + (strength/2) e_j with a random class j other than the top one; L1 at most
      ``strength``, which is at most 2.
    - ``probability``: y + N(0, strength^2), negative entries at zero, renormalized; a row of zeros becomes uniform.

    With ``repeats="same"`` the noise is a function of the pixels, so asking again teaches nothing. With ``"fresh"``,
    as published, every answer draws anew and averaging removes it.
    """

    kind: Kind = "logit"
    """Which of the three forms."""
    strength: float = 1.0
    """Of the noise, in the unit of its form; 0 changes nothing."""
    repeats: Literal["same", "fresh"] = "same"
    """The same noise whenever an input is asked, or new noise."""
    seed: int = 0
    """Of the noise, beside the pixels."""

    paper: ClassVar[str] = (
        "Orekondy et al., Prediction Poisoning, ICLR 2020; Mazeika et al., How to Steer Your Adversary, ICML 2022"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})
    identity: ClassVar[dict[str, Any] | None] = {"strength": 0.0}

    def __post_init__(self) -> None:
        require(self.strength >= 0, f"random_noise:strength={self.strength}: expected 0 or more")
        require(
            self.kind != "direction" or self.strength <= 2,
            f"random_noise:strength={self.strength}: expected at most 2 for kind=direction, where it bounds the L1 distance",
        )
        fresh = self.repeats == "fresh"
        self._declare(deterministic=not fresh, stateful=fresh, exportable=not fresh)

    def dial(self, num_classes: int) -> Dial:
        """``strength``."""
        del num_classes
        return Dial(
            parameter="strength", weakest=1e-3, strongest=2.0 if self.kind == "direction" else 1e3, logarithmic=True
        )

    @property
    def l1_bound(self) -> float:
        """``strength`` for random directions; no promise for the others."""
        return self.strength if self.kind == "direction" else 2.0

    def prepare(self, preparation: Preparation) -> Responder:
        """With ``repeats="fresh"``, a responder that counts each account's queries."""
        return FreshNoise(self, preparation.predictor).ready(preparation.device) if self.repeats == "fresh" else self

    def restore(self, predictor: Predictor, tensors: Mapping[str, Tensor], *, device: str = "cpu") -> Responder:
        """With ``repeats="fresh"``, the responder with its counts; raises `ModelError` for tensors that do not fit."""
        if self.repeats == "same":
            return super().restore(predictor, tensors, device=device)
        return restore_module(self, lambda victim, _: FreshNoise(self, victim), predictor, tensors, device)

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Rows with noise that belongs to their inputs; raises `OptionError` where noise has to be fresh."""
        if self.repeats == "fresh":
            return super().perturb(probabilities)
        return self.perturb_seeded(probabilities, input_seeds(inputs, self.seed))

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Rows with noise that belongs to the rows themselves, for use without inputs."""
        return self.perturb_seeded(probabilities, input_seeds(probabilities, self.seed))

    def perturb_seeded(self, probabilities: Tensor, seeds: Tensor) -> Tensor:
        """Rows with noise drawn from one int64 seed per row, [N]."""
        if self.strength == 0:
            return probabilities
        act = {"logit": self._logit, "direction": self._direction, "probability": self._probability}[self.kind]
        return act(probabilities.float(), seeds).to(probabilities.dtype)

    def _logit(self, y: Tensor, seeds: Tensor) -> Tensor:
        noise = normal(seeds, y.shape[1])
        length = noise.norm(dim=1, keepdim=True)
        noise = noise * (self.strength / length.clamp_min(_EDGE)).clamp_max(1.0)
        rows = torch.sigmoid(torch.logit(y.clamp(_EDGE, 1 - _EDGE)) + noise)
        return rows / rows.sum(dim=1, keepdim=True)

    def _direction(self, y: Tensor, seeds: Tensor) -> Tensor:
        classes = y.shape[1]
        step = 1 + (uniform(seeds, 1)[:, 0] * (classes - 1)).long().clamp_max(classes - 2)
        other = (y.argmax(dim=1) + step) % classes
        share = self.strength / 2
        return (1 - share) * y + share * F.one_hot(other, classes).to(y.dtype)

    def _probability(self, y: Tensor, seeds: Tensor) -> Tensor:
        rows = (y + self.strength * normal(seeds, y.shape[1])).clamp_min(0.0)
        total = rows.sum(dim=1, keepdim=True)
        return torch.where(total > 0, rows / total.clamp_min(_EDGE), torch.full_like(rows, 1 / rows.shape[1]))


class FreshNoise(PreparedModule):
    """Noise drawn anew for every query, by the number of the account's query."""

    def __init__(self, noise: RandomNoise, predictor: Predictor) -> None:
        super().__init__(noise, predictor)
        self._noise = noise
        self._asked: Counter[str] = Counter()

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Rows with fresh noise; the n-th query of an account always gets the n-th draw."""
        clean = checked(clean, self.spec, num_classes=self.num_classes)
        count = len(clean.probabilities)
        first = self._asked[clean.account]
        self._asked[clean.account] += count
        numbers = torch.arange(first, first + count, device=clean.inputs.device)
        seeds = mix(input_seeds(clean.inputs, self._noise.seed) + mix(numbers + 1))
        return self._noise.perturb_seeded(clean.probabilities, seeds.to(clean.probabilities.device))

    def facts(self) -> dict[str, Any]:
        """Queries of each account so far."""
        return {"asked": dict(self._asked)}

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Go on counting from saved numbers."""
        self._asked = Counter(facts["asked"])
