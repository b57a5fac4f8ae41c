"""The attacker's side: what it has, and how it trains clones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from modelmoat.core.seeds import derive, generator
from modelmoat.data import ImageSet
from modelmoat.models import Classifier, create_network
from modelmoat.training import FitResult, FitSettings, Images, fit, pixel_statistics
from modelmoat.victims import Answers, QueryTarget

QUERY_BATCH = 1024

CLONE_FIT = FitSettings(epochs=30, min_steps=600, lr=0.05)
"""How clones are trained unless said otherwise."""

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Theft:
    """What an attack has at one budget.

    Attributes:
        budget: queries it was allowed.
        sent: queries it had sent when the clone was trained.
        unique: different inputs among them.
        clone: the trained copy; None where the thief wanted none at this budget.
        steps: optimizer steps behind the clone.
        precision: arithmetic the clone was trained in.
        train_seconds: time spent on this clone.
        query_seconds: time spent on queries so far.
    """

    budget: int
    sent: int
    unique: int
    clone: Classifier | None
    steps: int
    precision: str
    train_seconds: float
    query_seconds: float


@dataclass(frozen=True, kw_only=True)
class Thief:
    """An attacker: a victim to ask, a pool of inputs, and a way to train clones.

    Attributes:
        victim: answers queries; all that the attacker sees of the model.
        pool: inputs that may be sent.
        clone_arch: registered architecture of the clone.
        fit: how clones are trained.
        seed: of every random draw of the attack.
        device: where clones are trained.
        account: the name under which queries are sent.
        wanted: budgets at which a clone is wanted; None for all. The others still get their queries.
        progress: told how far each stage is.
    """

    victim: QueryTarget
    pool: ImageSet
    clone_arch: str
    fit: FitSettings = CLONE_FIT
    seed: int = 0
    device: str = "cpu"
    account: str = "attacker"
    wanted: frozenset[int] | None = None
    progress: StageProgress | None = None
    _clock: dict[str, float] = field(default_factory=lambda: {"query": 0.0}, repr=False)

    def pool_order(self) -> Tensor:
        """The pool's rows in this attacker's random order."""
        return torch.randperm(len(self.pool), generator=generator(self.seed, "attack", "pool"))

    def query(self, inputs: Tensor) -> Answers:
        """Send inputs; every one of them is charged."""
        started = time.perf_counter()
        answers = self.victim.query(inputs, self.account)
        self._clock["query"] += time.perf_counter() - started
        return answers

    def query_rows(self, rows: Tensor, *, goal: int) -> Answers:
        """Send rows of the pool in batches; ``goal`` is the last budget, for the progress."""
        parts = []
        for part in rows.split(QUERY_BATCH):
            parts.append(self.query(self.pool.batch(part)))
            self.report("queries", self.victim.ledger.sent, goal)
        return Answers.join(parts)

    def new_clone(self, *names: object) -> Classifier:
        """An untrained network for the clone, normalized by the statistics of the pool."""
        mean, std = pixel_statistics(self.pool)
        return create_network(
            self.clone_arch,
            num_classes=self.victim.num_classes,
            input_shape=self.pool.shape,
            seed=derive(self.seed, "clone", *names),
            mean=mean,
            std=std,
        )

    def train(
        self, clone: Classifier, images: Tensor | Images, targets: Tensor, stage: str, **changes: int
    ) -> FitResult:
        """Fit a clone on a transfer set; ``changes`` replace fields of the fit settings."""
        settings = replace(self.fit, **changes) if changes else self.fit  # type: ignore[arg-type]
        return fit(
            clone,
            images,
            targets,
            settings,
            seed=derive(self.seed, "fit", stage),
            device=self.device,
            progress=lambda done, total, _: self.report(stage, done, total),
        )

    def steal(self, budget: int, images: Tensor | Images, targets: Tensor) -> Theft:
        """Train the final clone at a budget, from scratch, on the transfer set so far."""
        sent, unique = self.victim.ledger.sent, self.victim.ledger.unique
        if self.wanted is not None and budget not in self.wanted:
            return Theft(budget, sent, unique, None, 0, "", 0.0, self._clock["query"])
        started = time.perf_counter()
        clone = self.new_clone("final")
        result = self.train(clone, images, targets, f"clone at {budget:,}")
        seconds = time.perf_counter() - started
        return Theft(budget, sent, unique, clone, result.steps, result.precision, seconds, self._clock["query"])

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if self.progress:
            self.progress(stage, done, total)
