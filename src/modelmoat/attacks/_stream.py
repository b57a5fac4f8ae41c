"""What the attacks share whose clones learn while they ask: one stream of queries, and a clone as it is at each budget."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modelmoat.attacks.base import Attack, checked_budgets
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError
from modelmoat.models import Classifier
from modelmoat.training import TrainingDiverged, make_optimizer, resolve_precision
from modelmoat.training.precision import autocast
from modelmoat.victims import Answers

_FORWARD_ROWS = 1024

Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss of every image [N], from the clone's logits [N, K] and what the victim answered, rows [N, K] or labels [N]."""


class Spent(Exception):  # noqa: N818 - says what happened
    """The last budget is spent."""


@dataclass(frozen=True)
class Snapshot:
    """A clone that learns no more, the optimizer steps behind it, and the arithmetic of its training."""

    clone: Classifier
    steps: int
    precision: str


Asked = Generator[Theft, None, Answers]
"""Yields the thefts at the budgets that a batch completes, and returns the answers to all of it."""

Show = Callable[[Tensor, Answers], Snapshot]
"""The clone at a budget, from the images of the running batch that were answered so far, and their answers."""


class Stream:
    """Queries up to the last budget, cut at each.

    What is sent never depends on where the budgets lie: a batch that a budget cuts in two is sent in two parts, the
    clone at that budget learns from the first part alone, and the attack goes on as if nothing had been cut.
    """

    def __init__(self, thief: Thief, budgets: list[int]) -> None:
        thief.check_affordable(budgets[-1])
        self._thief = thief
        self._waiting = list(budgets)
        self._goal = budgets[-1]
        self._started = time.perf_counter() - thief.query_seconds
        self._away = 0.0
        self.size = 0

    def ask(self, images: Tensor, show: Show) -> Asked:
        """Send a batch [N, C, H, W], float32 in [0, 1] or uint8; raises `Spent` at the last budget."""
        images = images.detach().cpu()
        answered: list[Answers] = []
        done = 0
        while done < len(images):
            count = min(len(images) - done, self._waiting[0] - self.size)
            answered.append(self._thief.query(images[done : done + count]))
            done, self.size = done + count, self.size + count
            self._thief.report("queries", self.size, self._goal)
            if self.size == self._waiting[0]:
                yield from self._reach(show, images[:done], Answers.join(answered))
        return Answers.join(answered)

    def _reach(self, show: Show, images: Tensor, answers: Answers) -> Iterator[Theft]:
        budget = self._waiting.pop(0)
        if self._thief.wants(budget):
            shot = show(images, answers)
            self._thief.report(f"clone at {budget:,}", 1, 1)
            busy = time.perf_counter() - self._started - self._away - self._thief.query_seconds
            theft = self._thief.theft(budget, shot.clone, shot.steps, shot.precision, busy)
        else:
            theft = self._thief.theft(budget, None)
        left = time.perf_counter()
        yield theft
        self._away += time.perf_counter() - left
        if not self._waiting:
            raise Spent


class Learner:
    """A clone in training.

    Args:
        thief: says with which optimizer and in which arithmetic clones are trained.
        network: the clone.
        lr: learning rate at the start.
        loss: of every image.
    """

    def __init__(self, thief: Thief, network: Classifier, *, lr: float, loss: Loss) -> None:
        self.device = torch.device(thief.device)
        self.network = network.to(device=self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = 0
        self._precision = resolve_precision(thief.fit.precision, self.device)
        self._lr, self._loss = lr, loss
        self._optimizer = make_optimizer(self.network, replace(thief.fit, lr=lr))

    def scale_lr(self, factor: float) -> None:
        """Set the learning rate to a share of the first one."""
        scale_lr(self._optimizer, self._lr * factor)

    def step(self, images: Tensor, targets: Tensor) -> None:
        """One step on a batch [N, C, H, W] in [0, 1] and what the victim answered."""
        if len(images) == 1:  # batch norm cannot train on a single image
            images, targets = images.repeat(2, 1, 1, 1), targets.repeat(2, *[1] * (targets.ndim - 1))
        self.network.train()
        batch = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with autocast(self._precision, self.device):
            logits = self.network(batch).float()
        self._optimizer.zero_grad(set_to_none=True)
        self._loss(logits, targets.to(self.device)).mean().backward()
        self._optimizer.step()
        self.steps += 1

    def gradient_logits(self, images: Tensor) -> Tensor:
        """Scores in evaluation mode [N, K], through which gradients flow back to the images."""
        self.network.eval()
        scores: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return scores

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Scores in evaluation mode and full precision, float32 [N, K], on the clone's device."""
        self.network.eval()
        parts = images.to(self.device).split(_FORWARD_ROWS)
        return torch.cat([self.network(part.contiguous(memory_format=torch.channels_last)).float() for part in parts])

    def snapshot(self, images: Tensor | None = None, targets: Tensor | None = None) -> Snapshot:
        """A copy of the clone as it is, after one more step where images that it has not learned yet are given.

        Raises:
            TrainingDiverged: a weight is not finite.
        """
        ahead = copy.deepcopy(self)
        if images is not None and targets is not None and len(images):
            ahead.step(images, targets)
        ahead.network.eval()
        if not all(bool(value.isfinite().all()) for value in ahead.network.state_dict().values()):
            raise TrainingDiverged(
                f"the clone's weights are not finite after {ahead.steps:,} steps at a learning rate of {self._lr}; "
                "expected finite numbers; fix: lower clone_lr"
            )
        return Snapshot(ahead.network, ahead.steps, ahead._precision)


def scale_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@dataclass(frozen=True, kw_only=True, repr=False)
class StreamAttack(Attack):
    """An attack whose clone learns along its stream of queries; the clone at a budget is a snapshot of it."""

    @abstractmethod
    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Ask and learn without end; `Stream.ask` ends it."""

    def teach(self, stream: Stream, learner: Learner, images: Tensor) -> Generator[Theft, None, tuple[Tensor, Tensor]]:
        """Ask a batch and learn from it; returns it with what the victim answered."""
        answers = yield from stream.ask(images, lambda part, answered: learner.snapshot(part, self.learn(answered)))
        targets = self.learn(answers)
        learner.step(images, targets)
        return images, targets

    def check(self, budgets: Sequence[int], pool_size: int) -> None:  # noqa: ARG002 - inputs are made, not taken
        """Any budget goes, whatever the pool."""
        checked_budgets(budgets)

    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """Spend each budget exactly; yields a snapshot of the clone at each."""
        self.check(budgets, len(thief.pool))
        self.check_fit(thief.pool, thief.victim.num_classes)
        self._check_output(thief)
        try:
            yield from self.pursue(thief, Stream(thief, checked_budgets(budgets)))
        except Spent:
            return

    def _check_output(self, thief: Thief) -> None:
        if thief.victim.output.kind not in self.outputs:
            raise OptionError(
                f"attack '{self.spec}' needs {' or '.join(sorted(self.outputs))}; the victim answers with "
                f"{thief.victim.output}; fix: choose an attack that can use such answers"
            )
