"""The fit loop: victims, clones and every recipe go through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import ModelmoatError
from modelmoat.core.seeds import generator
from modelmoat.training.augment import augment_batch, resolve_augment
from modelmoat.training.checkpoint import load_checkpoint, save_checkpoint
from modelmoat.training.precision import autocast, resolve_precision
from modelmoat.training.settings import Augment, FitSettings
from modelmoat.training.sources import Images, as_float, as_images

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Loss of one batch: network, float images [B, C, H, W], targets -> scalar."""

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a few words on how it goes."""


class TrainingDiverged(ModelmoatError):  # noqa: N818 - says what happened
    """The loss is no longer a number."""


@dataclass(frozen=True)
class FitResult:
    """What a training did: steps and epochs behind the network, and the mean loss of each epoch run here."""

    steps: int
    epochs: int
    precision: str
    losses: list[float] = field(default_factory=list)


def cross_entropy(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to labels [B] (int64) or to rows of probabilities [B, K]."""
    return F.cross_entropy(network(inputs).float(), targets)


def fit(
    network: nn.Module,
    images: Tensor | Images,
    targets: Tensor,
    settings: FitSettings,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    objective: Objective = cross_entropy,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    evaluate: Callable[[nn.Module], str] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train ``network`` in place and leave it in evaluation mode with the weights of the last epoch.

    The order of images and their augmentation depend on ``seed`` and the number of the epoch alone, so a training that
    was interrupted and resumed ends with the same weights as one that was not.

    Args:
        network: takes float32 images in [0, 1], returns scores [B, K].
        images: [N, C, H, W], uint8 or float32 in [0, 1].
        targets: int64 labels [N], or float rows of probabilities [N, K].
        settings: optimizer, schedule, augmentation, precision.
        seed: of order and augmentation.
        device: where to train.
        objective: loss of one batch.
        checkpoint: file to resume from and to write after each epoch; removed by nobody here.
        fingerprint: names the training in its checkpoint, so that another one refuses it.
        evaluate: called after each epoch; its words are shown with the progress.
        progress: called after each step.

    Raises:
        TrainingDiverged: the mean loss of an epoch is not finite.
        RunError: the checkpoint belongs to another training.
    """
    device = torch.device(device)
    source = as_images(images)
    network.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, settings)
    loop = _Loop(network, source, targets, settings, seed, device, objective, optimizer)
    first = load_checkpoint(checkpoint, network, optimizer, fingerprint=fingerprint) if checkpoint else 0
    losses: list[float] = []
    words = ""
    for epoch in range(first, loop.epochs):
        losses.append(loop.run_epoch(epoch, words, progress))
        words = f"loss {losses[-1]:.3f}" + (f", {evaluate(network)}" if evaluate else "")
        if checkpoint:
            save_checkpoint(checkpoint, network, optimizer, epoch=epoch + 1, fingerprint=fingerprint)
    network.eval()
    return FitResult(loop.epochs * loop.steps_per_epoch, loop.epochs, loop.precision, losses)


class _Loop:
    """State that all epochs of one training share."""

    def __init__(
        self,
        network: nn.Module,
        source: Images,
        targets: Tensor,
        settings: FitSettings,
        seed: int,
        device: torch.device,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.network, self.source, self.settings = network, source, settings
        self.seed, self.device, self.objective, self.optimizer = seed, device, objective, optimizer
        self.targets = targets.to(device)
        self.precision = resolve_precision(settings.precision, device)
        self.steps_per_epoch = settings.steps_per_epoch(len(source))
        self.epochs = settings.total_epochs(len(source))
        self.augment = self._augment()

    def run_epoch(self, epoch: int, words: str, progress: Progress | None) -> float:
        """One pass in the order of this epoch; returns the mean loss."""
        self.network.train()
        order = torch.randperm(len(self.source), generator=generator(self.seed, "order", epoch))
        offsets = generator(self.seed, "augment", epoch)
        total = torch.zeros((), device=self.device)
        for step, rows in enumerate(self.settings.batches(order)):
            done = epoch * self.steps_per_epoch + step
            self._set_lr((done + 0.5) / (self.epochs * self.steps_per_epoch))
            total += self._step(rows, offsets)
            if progress:
                progress(done + 1, self.epochs * self.steps_per_epoch, words)
        mean = float(total) / self.steps_per_epoch
        if not torch.isfinite(torch.tensor(mean)):
            raise TrainingDiverged(
                f"the mean loss of epoch {epoch + 1} is {mean} at a learning rate of {self.settings.lr}; "
                "expected a finite number; fix: lower the learning rate, or train in float32"
            )
        return mean

    def _step(self, rows: Tensor, offsets: torch.Generator) -> Tensor:
        batch = self.source.batch(rows).to(self.device)
        batch = as_float(augment_batch(batch, self.augment, offsets)).contiguous(memory_format=torch.channels_last)
        with autocast(self.precision, self.device):
            loss = self.objective(self.network, batch, self.targets[rows.to(self.device)])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _set_lr(self, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(share)

    def _augment(self) -> Augment:
        channels, size = self.source.batch(torch.zeros(1, dtype=torch.int64)).shape[1:3]
        return resolve_augment(self.settings.augment, channels, size)


def _optimizer(network: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
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
