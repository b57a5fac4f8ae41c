"""What the pool-based attacks share: a transfer set that grows to one budget after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from modelmoat.attacks.base import Attack
from modelmoat.attacks.thief import CloneMaker, Theft, Thief
from modelmoat.data import ImageSet
from modelmoat.training import Images
from modelmoat.victims import Answers


class SentImages:
    """Inputs in the order in which they were sent: rows of a pool, read where they lie, and images made up.

    Args:
        pool: where rows are read.
        places: int64 [N]; a row of the pool, or -1 - j for the j-th made image.
        made: uint8 [M, C, H, W].
    """

    def __init__(self, pool: ImageSet, places: Tensor, made: Tensor | None = None) -> None:
        self._pool, self._places, self._made = pool, places, made

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, indices: Tensor) -> Tensor:
        """Images at positions of the transfer set, uint8 [B, C, H, W]."""
        places = self._places[indices]
        if self._made is None:
            return self._pool.batch(places)
        images = self._made[(-1 - places).clamp_min(0)]
        own = places >= 0
        images[own] = self._pool.batch(places[own])
        return images


class SomeImages:
    """Images at ``rows`` of others, int64 [N], repeats included."""

    def __init__(self, images: Images, rows: Tensor) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> Tensor:
        """Images at positions of ``rows``, [B, C, H, W]."""
        return self._images.batch(self._rows[indices])


class TransferSet:
    """Answered inputs, and the budgets that growing past them completes.

    Args:
        attack: says what is learned from answers.
        thief: sends and trains.
        budgets: in growing order.
        maker: trains the clone at each budget, if not as `Thief.make` does.
    """

    def __init__(self, attack: Attack, thief: Thief, budgets: list[int], maker: CloneMaker | None = None) -> None:
        thief.check_affordable(budgets[-1])
        self._attack, self._thief, self._maker = attack, thief, maker
        self._waiting = list(budgets)
        self._places: list[Tensor] = []
        self._made: list[Tensor] = []
        self._answers: list[Answers] = []
        self.size = 0
        self.goal = budgets[-1]

    @property
    def complete(self) -> bool:
        """Whether the last budget is spent."""
        return not self._waiting

    @property
    def images(self) -> SentImages:
        """What was sent."""
        made = torch.cat(self._made) if self._made else None
        return SentImages(self._thief.pool, torch.cat(self._places), made)

    @property
    def rows(self) -> Tensor:
        """Rows of the pool that were sent, int64."""
        places = torch.cat(self._places) if self._places else torch.empty(0, dtype=torch.int64)
        return places[places >= 0]

    @property
    def answers(self) -> Answers:
        """What came back, in the same order as ``images``."""
        return Answers.join(self._answers)

    def latest(self, count: int) -> Answers:
        """The last ``count`` answers."""
        parts: list[Answers] = []
        while sum(map(len, parts)) < count:
            parts.insert(0, self._answers[-1 - len(parts)])
        return Answers.join(parts)[slice(-count, None)]

    @property
    def targets(self) -> Tensor:
        """What a clone is to learn: rows of probabilities [N, K], or labels [N]."""
        return self._attack.learn(self.answers)

    def unsent(self, images: Tensor) -> Tensor:
        """Made images that differ from each other and from those made and sent before, in their order."""
        known = {image.numpy().tobytes() for part in self._made for image in part}
        fresh = []
        for row, image in enumerate(images):
            key = image.numpy().tobytes()
            if key not in known:
                known.add(key)
                fresh.append(row)
        return images[fresh]

    def ask_rows(self, rows: Tensor) -> Iterator[Theft]:
        """Send rows of the pool as far as the budget goes; a theft for every budget reached on the way."""
        for part in self._cut(rows):
            self._answers.append(self._thief.query_rows(part, goal=self.goal))
            yield from self._add(part)

    def ask_made(self, images: Tensor) -> Iterator[Theft]:
        """Send made images, uint8 [N, C, H, W], likewise."""
        for part in self._cut(images):
            self._answers.append(self._thief.query(part))
            self._thief.report("queries", self.size + len(part), self.goal)
            first = sum(map(len, self._made))
            self._made.append(part)
            yield from self._add(-1 - torch.arange(first, first + len(part)))

    def _cut(self, inputs: Tensor) -> Iterator[Tensor]:
        """Inputs, cut where a budget ends."""
        while len(inputs) and self._waiting:
            count = min(len(inputs), self._waiting[0] - self.size)
            yield inputs[:count]
            inputs = inputs[count:]

    def _add(self, places: Tensor) -> Iterator[Theft]:
        self._places.append(places)
        self.size += len(places)
        if self.size == self._waiting[0]:
            yield self._thief.steal(self._waiting.pop(0), self.images, self.targets, self._maker)
