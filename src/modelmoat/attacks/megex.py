"""MEGEX: data-free model extraction from victims that explain their answers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks._data_free import DataFree, logit_distance, needs_steps, recovered_logits, steps_down
from modelmoat.attacks._generator import Forger, pixels
from modelmoat.attacks._stream import Learner, Stream
from modelmoat.attacks.base import ATTACKS
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.victims.answers import EXPLAINED, OutputKind

_MILESTONES, _FALL = (0.1, 0.3, 0.5), 0.3
_LEAST_PROBABILITY = 1e-7


@ATTACKS.register("megex")
@dataclass(frozen=True, kw_only=True, repr=False)
class MEGEX(DataFree):
    """DFME whose generator follows the gradients that the victim explains its answers with.

    The explanation is the gradient of the largest probability. The others are taken to give way in proportion to their
    size, which is exact for two classes. An iteration costs B (clone_steps + generator_steps) queries: no directions.
    """

    clone_steps: int = 5
    """Steps of the clone in an iteration, each on fresh images."""
    generator_steps: int = 1
    """Steps of the generator in an iteration."""

    paper: ClassVar[str] = (
        "Miura et al., MEGEX: Data-Free Model Extraction Attack against Gradient-Based Explainable AI, 2021"
    )
    outputs: ClassVar[frozenset[OutputKind]] = frozenset({EXPLAINED})

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_steps(self, "clone_steps", "generator_steps")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Clone and generator in turns."""
        learner = self.new_learner(thief, logit_distance)
        forger = self.new_forger(thief)
        while True:
            share = steps_down(self.progress(stream), _MILESTONES, _FALL)
            learner.scale_lr(share)
            forger.scale_lr(share)
            for _ in range(self.clone_steps):
                yield from self.teach(stream, learner, forger.images())
            for _ in range(self.generator_steps):
                yield from self.deceive(stream, forger, learner)

    def deceive(self, stream: Stream, forger: Forger, learner: Learner) -> Generator[Theft, None, None]:
        """One step of the generator up the clone's loss."""
        made = forger.draw()
        leaf = made.detach().requires_grad_()
        images = pixels(leaf)
        answers = yield from stream.ask(images, lambda _images, _answers: learner.snapshot())
        targets = self.learn(answers).to(leaf.device)
        logits = learner.gradient_logits(images)
        losses = logit_distance(logits, targets)
        if targets.ndim == 2 and answers.explanations is not None:
            away = (logits - recovered_logits(targets)).sign()
            explained = (answers.explanations.to(leaf.device) * images).sum(dim=(1, 2, 3))
            losses = losses - (away * logit_slopes(targets)).mean(dim=1) * explained
        (slope,) = torch.autograd.grad(losses.sum(), leaf)
        forger.climb(made, slope)


def logit_slopes(probabilities: Tensor) -> Tensor:
    """By how much each recovered logit changes when the largest probability p does, [N, K].

    With q = 1 / p + 1 / (1 - p): (1 - 1 / K) q for the largest, and -q / K for the others, which share what is left in
    proportion to their size.
    """
    classes = probabilities.shape[1]
    top = probabilities.argmax(dim=1, keepdim=True)
    largest = probabilities.gather(1, top)
    rest = (probabilities.sum(dim=1, keepdim=True) - largest).clamp_min(_LEAST_PROBABILITY)
    q = 1 / largest + 1 / rest
    slopes = (-q / classes).expand_as(probabilities)
    return slopes.scatter(1, top, q * (1 - 1 / classes))
