"""DFMS: data-free model stealing with a GAN on proxy images."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from modelmoat.attacks._data_free import DataFree, blank_clone, cosine, needs_steps, soft_cross_entropy
from modelmoat.attacks._gan import Gan
from modelmoat.attacks._shapes import shape_images
from modelmoat.attacks._stream import Learner, Snapshot, Stream
from modelmoat.attacks.base import ATTACKS, checked_budgets
from modelmoat.attacks.thief import QUERY_BATCH, Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator
from modelmoat.training import as_float
from modelmoat.victims import Answers


@ATTACKS.register("dfms")
@dataclass(frozen=True, kw_only=True, repr=False)
class DFMS(DataFree):
    """A GAN learns proxy images, then to make images of all the clone's classes; its steps ask the victim nothing.

    1. The GAN learns the proxy for ``gan_epochs``: images of the pool, or synthetic shapes.
    2. ``start`` images are asked, half proxy, half made, and a first clone is trained on them as ``Thief`` trains.
    3. The GAN goes on for ``tune_epochs`` with ``tune_diversity`` times the clone's imbalance of classes in its loss;
       start / 2 newly made images take the place of the made half, and the clone is trained anew.
    4. GAN (``diversity``) and clone (``clone_lr``) take turns: B queries for one step of each.

    With ``targets=label`` this is the hard-label variant (DFMS-HL), else the soft one (DFMS-SL).
    """

    batch_size: int = 64
    clone_lr: float = 0.01
    generator_lr: float = 2e-4
    horizon: int = 8_000_000
    proxy: Literal["pool", "shapes"] = "pool"
    """What the GAN learns first: images of the pool, or synthetic shapes."""
    proxy_images: int = 50_000
    """How many of them, at most."""
    gan_epochs: int = 200
    """Epochs of the GAN on the proxy alone."""
    tune_epochs: int = 100
    """Epochs of the GAN with the first clone."""
    start: int = 50_000
    """Queries for the first clone."""
    diversity: float = 500.0
    """Weight of the imbalance of classes while GAN and clone take turns."""
    tune_diversity: float = 10.0
    """The same in the epochs before."""

    paper: ClassVar[str] = "Sanyal et al., Towards Data-Free Model Stealing in a Hard Label Setting, CVPR 2022 (DFMS)"
    knows: ClassVar[str] = (
        "input size, number of classes, unrelated images from the pool (or none, with synthetic shapes); "
        "not the victim's data or architecture"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_steps(self, "gan_epochs", "tune_epochs")
        require(self.start >= 4, f"{self.name}:start={self.start}: expected at least 4 queries")
        least = self.batch_size
        require(self.proxy_images >= least, f"{self.name}:proxy_images={self.proxy_images}: expected at least {least}")
        for name in ("diversity", "tune_diversity"):
            require(getattr(self, name) >= 0, f"{self.name}:{name}={getattr(self, name)}: expected 0 or more")

    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """The GAN needs a batch of proxy images, unless it draws its own."""
        checked_budgets(budgets)
        require(
            self.proxy == "shapes" or pool_size >= self.batch_size,
            f"{self.name}:batch_size={self.batch_size}: the pool has {pool_size:,} images; "
            f"fix: {self.name}:proxy=shapes, or a larger pool",
        )

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """The four stages."""
        random = generator(thief.seed, "attack", "proxy")
        proxy = self._proxy_images(thief, random)
        gan = Gan(self.new_forger(thief, optimizer="gan"), proxy, random, thief)
        gan.train(self.gan_epochs, "generator")
        half = self.start // 2
        natural = proxy[torch.randint(len(proxy), (half,), generator=random)]
        first = _Transfer(self, thief, "first clone")
        mixed = torch.cat([natural, gan.images(self.start - half)])
        order = torch.randperm(self.start, generator=random)
        yield from first.ask(stream, mixed[order])
        learner = first.learn()
        gan.train(self.tune_epochs, "generator, tuned", clone=learner, diversity=self.tune_diversity)
        second = first.only(order < half, "second clone")
        yield from second.ask(stream, gan.images(self.start - half))
        learner = second.learn()
        while True:
            learner.scale_lr(cosine(self.progress(stream)))
            gan.step(clone=learner, diversity=self.diversity)
            yield from self.teach(stream, learner, as_float(gan.images(self.batch_size)))

    def _proxy_images(self, thief: Thief, random: torch.Generator) -> Tensor:
        if self.proxy == "shapes":
            return shape_images(self.proxy_images, thief.pool.shape, random)
        return thief.pool.batch(thief.pool_order()[: self.proxy_images])


class _Transfer:
    """Images asked at once, and clones trained on them from scratch."""

    def __init__(
        self, attack: DFMS, thief: Thief, stage: str, images: Tensor | None = None, targets: Tensor | None = None
    ) -> None:
        self._attack, self._thief, self._stage = attack, thief, stage
        self._images = [] if images is None else [images]
        self._targets = [] if targets is None else [targets]

    def ask(self, stream: Stream, images: Tensor) -> Generator[Theft, None, None]:
        """Add images, uint8 [N, C, H, W]."""
        for part in images.split(QUERY_BATCH):
            answers = yield from stream.ask(part, self._snapshot)
            self._images.append(part)
            self._targets.append(self._attack.learn(answers))

    def only(self, rows: Tensor, stage: str) -> _Transfer:
        """The images of some rows, bool [N], for another clone."""
        return _Transfer(
            self._attack, self._thief, stage, torch.cat(self._images)[rows], torch.cat(self._targets)[rows]
        )

    def learn(self) -> Learner:
        """A clone of all images, ready for more."""
        shot = self._train(torch.cat(self._images), torch.cat(self._targets))
        learner = Learner(self._thief, shot.clone, lr=self._attack.clone_lr, loss=soft_cross_entropy)
        learner.steps = shot.steps
        return learner

    def _snapshot(self, images: Tensor, answers: Answers) -> Snapshot:
        targets = torch.cat([*self._targets, self._attack.learn(answers)])
        return self._train(torch.cat([*self._images, images]), targets)

    def _train(self, images: Tensor, targets: Tensor) -> Snapshot:
        clone = blank_clone(self._thief)
        result = self._thief.train(clone, images, targets, self._stage)
        return Snapshot(clone, result.steps, result.precision)
