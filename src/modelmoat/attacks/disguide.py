"""DisGUIDE: data-free model extraction guided by the disagreement of two clones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks._data_free import DataFree, imbalance, logit_distance, needs_steps, steps_down
from modelmoat.attacks._generator import Forger, pixels
from modelmoat.attacks._replay import Replay
from modelmoat.attacks._stream import Learner, Stream
from modelmoat.attacks.base import ATTACKS
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.victims.answers import EXPLAINED, OutputKind

_MILESTONES, _FALL = (0.4, 0.8), 0.3


@ATTACKS.register("disguide")
@dataclass(frozen=True, kw_only=True, repr=False)
class DisGUIDE(DataFree):
    """A generator makes images on which two clones disagree; its own steps ask the victim nothing.

    An iteration asks one fresh batch, B queries, from which both clones learn; they take ``replay_steps`` more on
    earlier answers, and then the generator ``generator_steps`` of its own. ``diversity`` weighs the balance of classes
    in its loss. Clones learn the L1 distance to recovered logits, or the cross-entropy to labels. The clone handed over
    is the first of the two; the paper lets both vote.
    """

    clone_lr: float = 0.03
    generator_steps: int = 1
    """Steps of the generator in an iteration; they cost no query."""
    replay_steps: int = 3
    """Steps of the clones on earlier answers in an iteration."""
    replay: int = 1_000_000
    """Earlier answers that are kept, at most."""
    diversity: float = 0.2
    """Weight of the balance of classes in the generator's loss."""

    paper: ClassVar[str] = "Rosenthal et al., DisGUIDE: Disagreement-Guided Data-Free Model Extraction, AAAI 2023"
    outputs: ClassVar[frozenset[OutputKind]] = frozenset({"probabilities", "label", EXPLAINED})

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_steps(self, "generator_steps", "replay")
        require(self.replay_steps >= 0, f"{self.name}:replay_steps={self.replay_steps}: expected 0 or more")
        require(self.diversity >= 0, f"{self.name}:diversity={self.diversity}: expected 0 or more")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Clones, replay and generator in turns."""
        first, second = (self.new_learner(thief, logit_distance, number) for number in (1, 2))
        forger = self.new_forger(thief)
        replay = Replay(self.replay, generator(thief.seed, "attack", "replay"))
        while True:
            share = steps_down(self.progress(stream), _MILESTONES, _FALL)
            first.scale_lr(share)
            second.scale_lr(share)
            forger.scale_lr(share)
            batch = yield from self.teach(stream, first, forger.images())
            second.step(*batch)
            replay.add(*batch)
            for _ in range(self.replay_steps):
                batch = replay.sample(self.batch_size)
                first.step(*batch)
                second.step(*batch)
            for _ in range(self.generator_steps):
                self.part(forger, first, second)

    def part(self, forger: Forger, first: Learner, second: Learner) -> None:
        """One step of the generator up the clones' disagreement."""
        images = pixels(forger.draw())
        shares = torch.stack([clone.gradient_logits(images).softmax(dim=1) for clone in (first, second)])
        forger.descend(self.diversity * imbalance(shares.mean(dim=0)) - disagreement(shares))


def disagreement(shares: Tensor) -> Tensor:
    """Mean over images and classes of the standard deviation across clones of their probabilities [2, N, K]."""
    return ((shares[0] - shares[1]).square() / 2 + 1e-12).sqrt().mean()  # the root has no slope at zero
