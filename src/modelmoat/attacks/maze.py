"""MAZE: data-free model stealing with replay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modelmoat.attacks._data_free import DataFree, Deceiver, cosine, divergence, needs_steps
from modelmoat.attacks._replay import Replay
from modelmoat.attacks._stream import Learner, Snapshot, Stream
from modelmoat.attacks.base import ATTACKS
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.victims import Answers
from modelmoat.victims.answers import EXPLAINED, OutputKind


@ATTACKS.register("maze")
@dataclass(frozen=True, kw_only=True, repr=False)
class MAZE(DataFree):
    """Like DFME with the KL divergence, more directions, and a replay of earlier answers.

    An iteration is ``generator_steps`` steps of the generator, ``clone_steps`` steps of the clone, the first of them on
    what the generator's last step has asked already, and ``replay_steps`` steps on earlier batches:
    B ((directions + 1) generator_steps + clone_steps - 1) queries. The last batch of each iteration is kept for replay,
    up to ``replay`` images.
    """

    batch_size: int = 128
    latent: int = 100
    horizon: int = 5_000_000
    clone_steps: int = 5
    """Steps of the clone in an iteration."""
    generator_steps: int = 1
    """Steps of the generator in an iteration."""
    replay_steps: int = 10
    """Steps of the clone on earlier batches in an iteration."""
    replay: int = 100_000
    """Images kept for replay, at most."""
    directions: int = 10
    """Random directions that estimate a gradient, one query each."""
    step: float = 1e-3
    """How far along them, in L2, before images are squashed to pixels."""

    paper: ClassVar[str] = (
        "Kariyappa et al., MAZE: Data-Free Model Stealing Attack Using Zeroth-Order Gradient Estimation, CVPR 2021"
    )
    outputs: ClassVar[frozenset[OutputKind]] = frozenset({"probabilities", EXPLAINED})

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_steps(self, "clone_steps", "generator_steps", "directions", "replay")
        require(self.replay_steps >= 0, f"{self.name}:replay_steps={self.replay_steps}: expected 0 or more")
        require(0 < self.step < math.inf, f"{self.name}:step={self.step}: expected a positive number, such as 0.001")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Generator, clone and replay in turns."""
        learner = self.new_learner(thief, divergence)
        forger = self.new_forger(thief, optimizer="sgd")
        deceiver = Deceiver.of(self, thief, forger, learner, divergence, self.directions, self.step)
        replay = Replay(self.replay, generator(thief.seed, "attack", "replay"))
        while True:
            share = cosine(self.progress(stream))
            learner.scale_lr(share)
            forger.scale_lr(share)
            for _ in range(self.generator_steps):
                batch = yield from deceiver.deceive(
                    stream, lambda images, answers: self._first(learner, images, answers)
                )
            learner.step(*batch)
            for _ in range(self.clone_steps - 1):
                batch = yield from self.teach(stream, learner, forger.images())
            replay.add(*batch)
            for _ in range(self.replay_steps):
                learner.step(*replay.sample(self.batch_size))

    def _first(self, learner: Learner, images: Tensor, answers: Answers) -> Snapshot:
        """The clone in the middle of a generator's step, whose first images it would have learned next."""
        rows = slice(self.batch_size)
        return learner.snapshot(images[rows], self.learn(answers)[rows])
