"""The fit loop: victims, clones and every recipe go through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import ModelmoatError, RunError
from modelmoat.core.seeds import generator
from modelmoat.training.augment import augment_batch, resolve_augment
from modelmoat.training.checkpoint import Trained, load_checkpoint, save_checkpoint, state_of
from modelmoat.training.distributed import ALONE, World
from modelmoat.training.log import Epoch, TrainingLog
from modelmoat.training.precision import autocast, resolve_precision
from modelmoat.training.settings import Augment, FitSettings
from modelmoat.training.sources import Images, as_float, as_images

Terms = Mapping[str, Tensor]
"""Weighted terms of a loss by name, each a scalar; their sum is minimized."""

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor | Terms]
"""Loss of one batch, or its terms: network, float images [B, C, H, W], targets -> scalars."""

Backward = Callable[[Terms], None]
"""Fills ``grad`` of the network's parameters, which are clear when it is called, from the terms of one batch."""

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a few words on how it goes."""

LOSS = "loss"  # name of the only term of an objective that gives one number


class TrainingDiverged(ModelmoatError):  # noqa: N818 - says what happened
    """The loss is no longer a number, or far beyond that of a guess."""


@dataclass(frozen=True)
class FitResult:
    """What a training did: steps and epochs behind the network, and the mean loss and terms of each epoch run here."""

    steps: int
    epochs: int
    precision: str
    losses: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)


def cross_entropy(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to labels [B] (int64) or to rows of probabilities [B, K]."""
    return F.cross_entropy(network(inputs).float(), targets)


def sum_backward(terms: Terms) -> None:
    """The gradient of the sum of all terms."""
    torch.autograd.backward(list(terms.values()))


def fit(
    network: nn.Module,
    images: Tensor | Images,
    targets: Tensor,
    settings: FitSettings,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    objective: Objective = cross_entropy,
    backward: Backward = sum_backward,
    companions: Mapping[str, Trained] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    log: Path | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    progress: Progress | None = None,
    world: World = ALONE,
    limits: Mapping[str, float] | None = None,
) -> FitResult:
    """Train ``network`` in place and leave it in evaluation mode with the weights of the last epoch.

    The order of images and their augmentation depend on ``seed`` and the number of the epoch alone, so a training that
    was interrupted and resumed ends with the same weights as one that was not. An objective that draws at random keeps
    this up by seeding its draws in ``on_epoch``; one that trains other networks, by naming them in ``companions``.

    With several processes in ``world``, all of them call this with the same arguments. Each takes its share of the rows of
    every batch, and the step follows the mean of their gradients, weighted by their rows: that of the whole batch, up to
    rounding, where the loss is a mean over images. What is no such mean sees one share at a time: batch norm normalizes by
    it (running statistics are those of the first process), and so does a ``backward`` that clips or projects gradients.
    Companions with an optimizer are averaged after every step. Files and progress are the first process's affair.

    Args:
        network: takes float32 images in [0, 1], returns scores [B, K].
        images: [N, C, H, W], uint8 or float32 in [0, 1].
        targets: int64 labels [N], or float rows of probabilities [N, K].
        settings: optimizer, schedule, augmentation, precision.
        seed: of order and augmentation.
        device: where to train.
        objective: loss of one batch, or its terms.
        backward: turns terms into gradients.
        companions: other networks that the objective changes or that were drawn at random; they are moved to the device,
            saved and restored with ``network``. Their mode and their steps are the objective's affair.
        on_epoch: called with the number of each epoch, from 0, before its first step.
        checkpoint: file to resume from and to write after each epoch; removed by nobody here.
        fingerprint: names the training in its checkpoint, so that another one refuses it.
        log: file that gets one line per epoch.
        evaluate: called after each epoch; its shares in [0, 1] are shown with the progress and logged.
        progress: called after each step.
        world: the processes that train together.
        limits: the most that terms of these names may be in the mean of an epoch; `LOSS` is the name of an only term.

    Raises:
        TrainingDiverged: the mean loss of an epoch or a weight after it is not finite, or a term is beyond its limit; the
            checkpoint of the epoch before is kept.
        RunError: the checkpoint belongs to another training, or is not the same for all processes.
        OptionError: batches too small to be shared by all processes.
    """
    device = torch.device(device)
    _move(network, device)
    for companion in (companions or {}).values():
        _move(companion.network, device)
    optimizer = make_optimizer(network, settings)
    parts = {"": Trained(network, optimizer)} | {
        f"companion.{name}.": part for name, part in (companions or {}).items()
    }
    others = list((companions or {}).values())
    source = as_images(images)
    loop = _Loop(network, optimizer, others, source, targets, settings, seed, device, objective, backward, world)
    limits = limits or {}
    first = _resumed(checkpoint, parts, fingerprint, world)
    journal = TrainingLog(log, first) if log and world.is_main else None
    told = progress if world.is_main else None
    epochs: list[Epoch] = []
    for number in range(first, loop.epochs):
        if on_epoch:
            on_epoch(number)
        epoch = loop.run_epoch(number, epochs[-1].words() if epochs else "", told)
        if reason := loop.diverged(epoch, limits):
            raise TrainingDiverged(reason + _way_out(loop.precision, checkpoint, number))
        epochs.append(replace(epoch, scores=dict(evaluate(network))) if evaluate else epoch)
        if journal:
            journal.add(epochs[-1])
        if checkpoint and world.is_main:
            save_checkpoint(checkpoint, parts, epoch=number + 1, fingerprint=fingerprint)
    network.eval()
    names = dict.fromkeys(name for epoch in epochs for name in epoch.terms)
    return FitResult(
        loop.epochs * loop.steps_per_epoch,
        loop.epochs,
        loop.precision,
        [epoch.loss for epoch in epochs],
        {name: [epoch.terms.get(name, 0.0) for epoch in epochs] for name in names},
    )


def _resumed(checkpoint: Path | None, parts: Mapping[str, Trained], fingerprint: str, world: World) -> int:
    """Epochs behind the checkpoint that all processes have read, and the first one's networks for all."""
    first = load_checkpoint(checkpoint, parts, fingerprint=fingerprint) if checkpoint else 0
    found = world.gathered(first)
    if len(set(found)) > 1:
        raise RunError(
            f"{checkpoint} has {', '.join(map(str, found))} epochs behind it, as each process sees it; "
            "fix: a folder that all machines share"
        )
    world.copy_main(value for part in parts.values() for value in part.network.state_dict().values())
    return first


@dataclass
class _Loop:
    """State that all epochs of one training share."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    companions: list[Trained]
    source: Images
    targets: Tensor
    settings: FitSettings
    seed: int
    device: torch.device
    objective: Objective
    backward: Backward
    world: World

    def __post_init__(self) -> None:
        rows = len(self.source)
        self.world.check_batch(self.settings.batch_size, rows)
        self.targets = self.targets.to(self.device)
        self.precision = resolve_precision(self.settings.precision, self.device)
        self.steps_per_epoch = self.settings.steps_per_epoch(rows)
        self.epochs = self.settings.total_epochs(rows)
        self.augment = self._augment()

    def run_epoch(self, epoch: int, words: str, progress: Progress | None) -> Epoch:
        """One pass in the order of this epoch."""
        self.network.train()
        order = torch.randperm(len(self.source), generator=generator(self.seed, "order", epoch))
        offsets = generator(self.seed, "augment", epoch)
        sums: dict[str, Tensor] = {}
        for step, rows in enumerate(self.settings.batches(order)):
            done = epoch * self.steps_per_epoch + step
            self._set_lr((done + 0.5) / (self.epochs * self.steps_per_epoch))
            for name, value in self._step(rows, offsets).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
            if progress:
                progress(done + 1, self.epochs * self.steps_per_epoch, words)
        self.world.add_up(sums.values())
        means = {name: float(total) / self.steps_per_epoch for name, total in sums.items()}
        return Epoch(epoch=epoch + 1, lr=self.optimizer.param_groups[0]["lr"], loss=sum(means.values()), terms=means)

    def _step(self, rows: Tensor, offsets: torch.Generator) -> Terms:
        """Terms of this process's share of a batch, weighted by its part of the rows."""
        own, weight = self.world.share(len(rows))
        batch = augment_batch(self.source.batch(rows).to(self.device), self.augment, offsets)[own]
        terms = self._terms(batch, self.targets[rows[own].to(self.device)]) if weight else {}
        self.optimizer.zero_grad(set_to_none=True)
        if terms:
            self.backward(terms)
        self.world.average_gradients(self.optimizer.param_groups[0]["params"], weight)
        self.optimizer.step()
        self._align(weight)
        return {name: value.detach() * weight for name, value in terms.items()}

    def _terms(self, batch: Tensor, targets: Tensor) -> Terms:
        batch = as_float(batch).contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, self.device):
            loss = self.objective(self.network, batch, targets)
        return {LOSS: loss} if isinstance(loss, Tensor) else loss

    def _align(self, weight: float) -> None:
        """Keep equal on all processes what gradients alone do not: buffers, and companions that learn on their own."""
        if self.world.size == 1:
            return
        for part in self.companions:
            if part.optimizer:
                self.world.average((value for value in state_of(part).values() if value.is_floating_point()), weight)
        networks = [self.network, *(part.network for part in self.companions)]
        self.world.copy_main(buffer for network in networks for buffer in network.buffers())

    def diverged(self, epoch: Epoch, limits: Mapping[str, float]) -> str:
        """What is wrong after an epoch; empty where nothing is."""
        state = [value for value in self.network.state_dict().values() if value.is_floating_point()]
        finite = all(bool(value.isfinite().all()) for value in state)
        at = f"at a learning rate of {self.settings.lr}"
        if not math.isfinite(epoch.loss) or not finite:
            terms = ", ".join(f"{name} {value:.3g}" for name, value in epoch.terms.items() if name != LOSS)
            return (
                f"the mean loss of epoch {epoch.epoch} is {epoch.loss} {at}{f' ({terms})' if terms else ''}, its weights "
                f"are {'' if finite else 'not '}finite; expected finite numbers"
            )
        for name, value in epoch.terms.items():
            if value > limits.get(name, math.inf):
                return (
                    f"the mean {name} of epoch {epoch.epoch} is {value:.3g} {at}; expected at most {limits[name]:.3g}"
                )
        return ""

    def _set_lr(self, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(share)

    def _augment(self) -> Augment:
        channels, size = self.source.batch(torch.zeros(1, dtype=torch.int64)).shape[1:3]
        return resolve_augment(self.settings.augment, channels, size)


def _way_out(precision: str, checkpoint: Path | None, epochs: int) -> str:
    narrow = "" if precision == "float32" else ", or train in float32"
    kept = f"; {checkpoint} keeps epoch {epochs} and goes on with these settings alone" if checkpoint and epochs else ""
    return f"; fix: lower the learning rate or the weight of the largest term{narrow}, in another folder{kept}"


def _move(network: nn.Module, device: torch.device) -> None:
    network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_optimizer(network: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """The optimizer of the settings, for all parameters that are not frozen."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=nesterov,
        weight_decay=settings.weight_decay,
        fused=True,
    )
