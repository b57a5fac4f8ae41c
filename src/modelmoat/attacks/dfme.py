"""Data-free model extraction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from modelmoat.attacks._data_free import DataFree, Deceiver, logit_distance, needs_steps, steps_down
from modelmoat.attacks._stream import Stream
from modelmoat.attacks.base import ATTACKS
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.victims.answers import EXPLAINED, OutputKind

_MILESTONES, _FALL = (0.1, 0.3, 0.5), 0.3


@ATTACKS.register("dfme")
@dataclass(frozen=True, kw_only=True, repr=False)
class DFME(DataFree):
    """A generator climbs the clone's loss through zeroth-order gradients, while the clone descends it.

    The loss is the L1 distance between the clone's logits and the victim's, recovered from its probabilities. An
    iteration is ``clone_steps`` steps of the clone on fresh images and ``generator_steps`` steps of the generator along
    ``directions`` random directions: B (clone_steps + generator_steps (directions + 1)) queries. The clone goes first,
    so that every budget, however small, has taught it something.
    """

    clone_steps: int = 5
    """Steps of the clone in an iteration, each on fresh images."""
    generator_steps: int = 1
    """Steps of the generator in an iteration."""
    directions: int = 1
    """Random directions that estimate a gradient, one query each."""
    step: float = 1e-3
    """How far along them, in L2, before images are squashed to pixels."""

    paper: ClassVar[str] = "Truong et al., Data-Free Model Extraction, CVPR 2021"
    outputs: ClassVar[frozenset[OutputKind]] = frozenset({"probabilities", EXPLAINED})

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_steps(self, "clone_steps", "generator_steps", "directions")
        require(0 < self.step < math.inf, f"{self.name}:step={self.step}: expected a positive number, such as 0.001")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Clone and generator in turns."""
        learner = self.new_learner(thief, logit_distance)
        forger = self.new_forger(thief)
        deceiver = Deceiver.of(self, thief, forger, learner, logit_distance, self.directions, self.step)
        while True:
            share = steps_down(self.progress(stream), _MILESTONES, _FALL)
            learner.scale_lr(share)
            forger.scale_lr(share)
            for _ in range(self.clone_steps):
                yield from self.teach(stream, learner, forger.images())
            for _ in range(self.generator_steps):
                yield from deceiver.deceive(stream, lambda _images, _answers: learner.snapshot())
