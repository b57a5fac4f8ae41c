"""ZSDB3KD: zero-shot distillation from a decision-based black box, reduced."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.attacks._boundary import Ways, boundary_labels, nearest_way, refine, search, ways_to_known
from modelmoat.attacks._data_free import blank_clone, needs_steps
from modelmoat.attacks._stream import Snapshot, Stream, StreamAttack
from modelmoat.attacks.base import ATTACKS
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.victims import Answers
from modelmoat.victims.answers import OutputKind


@ATTACKS.register("zsdb3kd")
@dataclass(frozen=True, kw_only=True, repr=False)
class ZSDB3KD(StreamAttack):
    """Turns labels into probabilities by measuring how far noise images are from the victim's other classes.

    A batch of ``noise`` images is asked; ``moves`` times every image moves by ``step`` (L2) away from the boundary nearest to it
    and keeps the move if its label stays. Then the distance to every class seen so far is searched (``halvings``) and
    refined along ``directions`` random directions, ``refinements`` times. An image's own class gets one half, the
    others share the rest in inverse proportion to their distances. The clone at a budget is trained from scratch on all
    images so far. The paper's settings need about 10^9 queries; these are some thousands per batch.
    """

    noise: int = 64
    """Noise images in a batch."""
    moves: int = 2
    """Moves of each image away from its nearest boundary."""
    step: float = 0.5
    """Length of a move, in L2."""
    halvings: int = 8
    """Halvings of a search, one query each for every boundary."""
    refinements: int = 1
    """Times that a distance is refined."""
    directions: int = 20
    """Random directions of a refinement, one query each for every boundary."""
    turn: float = 0.2
    """How far a refinement turns the way to a boundary."""
    temperature: float = 20.0
    """Of the distillation loss."""

    paper: ClassVar[str] = (
        "Wang, Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model, ICML 2021 (ZSDB3KD)"
    )
    outputs: ClassVar[frozenset[OutputKind]] = frozenset({"label"})
    knows: ClassVar[str] = (
        "input size and number of classes; no images at all, and not the victim's data or architecture"
    )

    def __post_init__(self) -> None:
        needs_steps(self, "noise", "halvings", "directions")
        for name in ("moves", "refinements"):
            require(getattr(self, name) >= 0, f"{self.name}:{name}={getattr(self, name)}: expected 0 or more")
        for name in ("step", "turn", "temperature"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{self.name}:{name}={value}: expected a positive number, such as {name}=0.5")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Batch after batch of noise."""
        random = generator(thief.seed, "attack", "noise")
        found = _Found(self, thief, stream)
        while True:
            images = noise_images(self.noise, thief.pool.shape, random)
            labels = yield from found.begin(images)
            for _ in range(self.moves):
                images, labels = yield from self._move(found, images, labels)
            ways = yield from self._measure(found, images, labels)
            for _ in range(self.refinements):
                if ways is not None:
                    ways = yield from refine(found.ask, ways, self.directions, self.turn, self.halvings, random)
            found.finish(images, labels, ways)

    def _measure(self, found: _Found, images: Tensor, labels: Tensor) -> Generator[Theft, None, Ways | None]:
        ways = ways_to_known(images, labels, *found.known())
        if ways is None:
            return None
        return (yield from search(found.ask, ways, self.halvings))

    def _move(self, found: _Found, images: Tensor, labels: Tensor) -> Generator[Theft, None, tuple[Tensor, Tensor]]:
        ways = yield from self._measure(found, images, labels)
        if ways is None:
            return images, labels
        along, _ = nearest_way(ways, len(images))
        moved = (images - self.step * along).clamp(0, 1)
        stays = (yield from found.ask(moved)) == labels
        return torch.where(stays.view(-1, 1, 1, 1), moved, images), labels

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy to labels plus T^2 KL(p || softmax(g / T)); targets [B, 1 + K] are labels beside p."""
        logits = network(inputs).float()
        labels, soft = targets[:, 0].long(), targets[:, 1:]
        warm = F.log_softmax(logits / self.temperature, dim=1)
        return F.cross_entropy(logits, labels) + self.temperature**2 * F.kl_div(warm, soft, reduction="batchmean")


def noise_images(count: int, shape: tuple[int, int, int], random: torch.Generator) -> Tensor:
    """Uniform noise on a grid of 2, 4 or 8 cells or pixel by pixel, float32 [count, C, H, W] in [0, 1].

    Networks give fine noise few labels; coarse noise gets more of them.
    """
    channels, height, width = shape
    grids = [2, 4, 8, min(height, width)]
    made = [torch.rand(count, channels, cells, cells, generator=random) for cells in grids]
    stretched = torch.stack([F.interpolate(cells, (height, width), mode="nearest") for cells in made])
    return stretched[torch.randint(len(grids), (count,), generator=random), torch.arange(count)]


@dataclass
class _Found:
    """Images with all that is known of them, and the queries that tell more."""

    attack: ZSDB3KD
    thief: Thief
    stream: Stream
    images: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def begin(self, images: Tensor) -> Generator[Theft, None, Tensor]:
        """Labels [N] of new images; they count as known, with their labels alone, until `finish`."""

        def show(part: Tensor, answers: Answers) -> Snapshot:
            return self._train([*self.images, part], [*self.targets, self._targets(answers.labels)])

        answers = yield from self.stream.ask(images, show)
        self.images.append(images)
        self.targets.append(self._targets(answers.labels))
        return answers.labels

    def ask(self, images: Tensor) -> Generator[Theft, None, Tensor]:
        """Labels [N] of points on the way."""
        answers = yield from self.stream.ask(images, lambda _images, _answers: self._train(self.images, self.targets))
        return answers.labels

    def known(self) -> tuple[Tensor, Tensor]:
        """All images so far and their labels."""
        return torch.cat(self.images), torch.cat(self.targets)[:, 0].long()

    def finish(self, images: Tensor, labels: Tensor, ways: Ways | None) -> None:
        """Replace the last batch by where it has moved to, with what the distances tell."""
        self.images[-1] = images
        self.targets[-1] = self._targets(labels, ways)

    def _targets(self, labels: Tensor, ways: Ways | None = None) -> Tensor:
        classes = self.thief.victim.num_classes
        soft = F.one_hot(labels, classes).float() if ways is None else boundary_labels(ways, labels, classes)
        return torch.cat([labels[:, None].float(), soft], dim=1)

    def _train(self, images: list[Tensor], targets: list[Tensor]) -> Snapshot:
        clone = blank_clone(self.thief)
        result = self.thief.train(clone, torch.cat(images), torch.cat(targets), "clone", objective=self.attack.loss)
        return Snapshot(clone, result.steps, result.precision)
