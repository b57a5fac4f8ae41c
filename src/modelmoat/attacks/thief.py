"""The attacker's side: what it has, and how it trains clones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from modelmoat.attacks.clones import CloneCache
from modelmoat.attacks.insight import Insight
from modelmoat.core.errors import BudgetExhausted
from modelmoat.core.seeds import derive, generator
from modelmoat.data import ImageSet
from modelmoat.models import Classifier, Start, create_network
from modelmoat.training import (
    FitResult,
    FitSettings,
    Images,
    Objective,
    Trained,
    as_images,
    cross_entropy,
    fit,
    pixel_statistics,
)
from modelmoat.victims import TURN, Answers, QueryTarget, in_turns

QUERY_BATCH = 1024

CLONE_FIT = FitSettings(epochs=30, min_steps=600, lr=0.05)
"""How clones are trained unless said otherwise."""

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and how much there is."""

CloneMaker = Callable[[Images, Tensor, str], tuple[Classifier, FitResult]]
"""Trains a clone on a transfer set, inputs and targets; the last argument names the stage for the progress."""


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


@dataclass(frozen=True)
class Transfer:
    """What a clone is trained on.

    Attributes:
        images: inputs that were answered.
        targets: for each of them a row of probabilities [N, K], or a label [N].
        objective: loss of a batch.
    """

    images: Images
    targets: Tensor
    objective: Objective = cross_entropy


@dataclass(frozen=True, kw_only=True)
class Thief:
    """An attacker: a victim to ask, a pool of inputs, and a way to train clones.

    Attributes:
        victim: answers queries; all that the attacker sees of the model.
        pool: inputs that may be sent.
        clone_arch: registered architecture of the clone.
        start: weights that clones start from; None for random ones.
        fit: how clones are trained.
        seed: of every random draw of the attack.
        device: where clones are trained.
        account: the name under which queries are sent.
        accounts: how many accounts take turns at it, eight inputs at a time; more than one are numbered.
        clones: clones trained before, for a transfer set that is the same again; None trains every one.
        wanted: budgets at which a clone is wanted; None for all. The others still get their queries.
        progress: told how far each stage is.
        insight: what it was told of the defense; None where nobody told it anything.
    """

    victim: QueryTarget
    pool: ImageSet
    clone_arch: str
    start: Start | None = None
    fit: FitSettings = CLONE_FIT
    seed: int = 0
    device: str = "cpu"
    account: str = "attacker"
    accounts: int = 1
    clones: CloneCache | None = None
    wanted: frozenset[int] | None = None
    progress: StageProgress | None = None
    insight: Insight | None = None
    _clock: dict[str, float] = field(default_factory=lambda: {"query": 0.0, "spared": 0.0}, repr=False)

    def pool_order(self) -> Tensor:
        """The pool's rows in this attacker's random order."""
        return torch.randperm(len(self.pool), generator=generator(self.seed, "attack", "pool"))

    def check_affordable(self, count: int) -> None:
        """Raise `BudgetExhausted` where so many inputs are more than the victim still answers; asks nothing."""
        left = self.victim.ledger.left
        if left is not None and count > left:
            raise BudgetExhausted(
                f"{count:,} queries: the victim answers {left:,} more; nothing was asked; fix: a budget of at most {left:,}"
            )

    def query(self, inputs: Tensor) -> Answers:
        """Send inputs; every one of them is charged."""
        started = time.perf_counter()
        answers = self.victim.query(inputs, self.account) if self.accounts == 1 else self._query_in_turns(inputs)
        self._clock["query"] += time.perf_counter() - started
        return answers

    def _query_in_turns(self, inputs: Tensor) -> Answers:
        ledger = self.victim.ledger
        ledger.admit(len(inputs))  # all accounts spend one budget
        parts = []
        for part in in_turns(inputs, ledger.sent):
            number = ledger.sent // TURN % self.accounts + 1
            parts.append(self.victim.query(part, f"{self.account}-{number}"))
        return Answers.join(parts)

    def query_rows(self, rows: Tensor, *, goal: int) -> Answers:
        """Send rows of the pool in batches; ``goal`` is the last budget, for the progress."""
        parts = []
        for part in rows.split(QUERY_BATCH):
            parts.append(self.query(self.pool.batch(part)))
            self.report("queries", self.victim.ledger.sent, goal)
        return Answers.join(parts)

    def new_clone(self, *names: object) -> Classifier:
        """A network for the clone: with the weights to start from, or untrained and normalized as the pool is."""
        seed = derive(self.seed, "clone", *names)
        if self.start:
            return self.start.copy(seed)
        mean, std = pixel_statistics(self.pool)
        return create_network(
            self.clone_arch,
            num_classes=self.victim.num_classes,
            input_shape=self.pool.shape,
            seed=seed,
            mean=mean,
            std=std,
        )

    def changed(self, **changes: int) -> FitSettings:
        """The fit settings with other values of some fields."""
        return replace(self.fit, **changes) if changes else self.fit  # type: ignore[arg-type]

    def train(
        self,
        clone: nn.Module,
        images: Tensor | Images,
        targets: Tensor,
        stage: str,
        *,
        objective: Objective = cross_entropy,
        on_epoch: Callable[[int], None] | None = None,
        companions: Mapping[str, Trained] | None = None,
        **changes: int,
    ) -> FitResult:
        """Fit a clone on a transfer set; ``changes`` replace fields of the fit settings, the rest is as in `fit`."""
        return fit(
            clone,
            images,
            targets,
            self.changed(**changes),
            seed=derive(self.seed, "fit", stage),
            device=self.device,
            objective=objective,
            on_epoch=on_epoch,
            companions=companions,
            progress=lambda done, total, _: self.report(stage, done, total),
        )

    def recovered(self, images: Tensor | Images, targets: Tensor, stage: str) -> Transfer:
        """The transfer set to train on at a stage; an attacker who knows the defense recovers clean answers here.

        Every strategy calls it before it trains a clone between queries; for the final clone, `steal` does.
        """
        del stage
        return Transfer(as_images(images), targets)

    def make(self, images: Images, targets: Tensor, stage: str) -> tuple[Classifier, FitResult]:
        """Train a clone from scratch on a transfer set, or take the one that was trained on the same before."""
        if self.clones is None:
            return self._make(images, targets, stage)
        made = self.clones.get(self._clone_setting(stage), images, targets, partial(self._make, images, targets, stage))
        self._clock["spared"] += made.spared
        return made.clone, made.result

    def _clone_setting(self, stage: str) -> dict[str, object]:
        """All that a clone from scratch depends on, beside its transfer set."""
        return {
            "arch": self.clone_arch,
            "start": self.start.digest if self.start else None,
            "classes": self.victim.num_classes,
            "pool": self.pool.digest,  # whose mean and spread it takes over
            "fit": asdict(self.fit),
            "seed": self.seed,
            "stage": stage,
            "device": self.device,
        }

    def _make(self, images: Images, targets: Tensor, stage: str) -> tuple[Classifier, FitResult]:
        clone = self.new_clone("final")
        return clone, self.train(clone, images, targets, stage)

    def steal(self, budget: int, images: Tensor | Images, targets: Tensor, maker: CloneMaker | None = None) -> Theft:
        """Train the final clone at a budget on the transfer set so far; ``maker`` says how, if not as `make` does."""
        if not self.wants(budget):
            return self.theft(budget, None)
        started = time.perf_counter() + self._clock["spared"]
        clone, result = (maker or self.make)(as_images(images), targets, f"clone at {budget:,}")
        seconds = time.perf_counter() + self._clock["spared"] - started
        return self.theft(budget, clone, result.steps, result.precision, seconds)

    def wants(self, budget: int) -> bool:
        """Whether a clone is wanted at a budget."""
        return self.wanted is None or budget in self.wanted

    def theft(
        self, budget: int, clone: Classifier | None, steps: int = 0, precision: str = "", train_seconds: float = 0.0
    ) -> Theft:
        """What there is at a budget, with the ledger's counts as they are now."""
        sent, unique = self.victim.ledger.sent, self.victim.ledger.unique
        return Theft(budget, sent, unique, clone, steps, precision, train_seconds, self.query_seconds)

    @property
    def query_seconds(self) -> float:
        """Time spent on queries so far."""
        return self._clock["query"]

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if self.progress:
            self.progress(stage, done, total)
