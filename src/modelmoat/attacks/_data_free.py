"""What the attacks share that own no images: a generator, a clone, and zeroth-order steps through the victim."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks._generator import Forger, check_side, pixels
from modelmoat.attacks._stream import Learner, Loss, Show, Stream, StreamAttack
from modelmoat.attacks._zeroth_order import estimated_gradient, unit_directions
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import derive, generator
from modelmoat.data import ImageSet
from modelmoat.models import Classifier, create_network

_LEAST_PROBABILITY = 1e-7
_LEAST_SHARE = 1e-5


@dataclass(frozen=True, kw_only=True, repr=False)
class DataFree(StreamAttack):
    """Makes its own images with a generator.

    Learning rates fall over ``horizon`` queries, whatever the budgets are, so that a clone at one budget does not
    depend on another; set it to the largest budget. The pool lends nothing but the shape of an image.
    """

    batch_size: int = 256
    """B, images made and asked at a time."""
    latent: int = 256
    """Size of the generator's random input."""
    clone_lr: float = 0.1
    """Highest learning rate of the clone."""
    generator_lr: float = 1e-4
    """Highest learning rate of the generator."""
    horizon: int = 20_000_000
    """Queries over which learning rates fall; set it to the largest budget."""

    knows: ClassVar[str] = (
        "input size and number of classes; no images at all, and not the victim's data or architecture"
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "latent", "horizon"):
            value = getattr(self, name)
            require(value >= (2 if name == "batch_size" else 1), f"{self.name}:{name}={value}: {_least(name)}")
        for name in ("clone_lr", "generator_lr"):
            value = getattr(self, name)
            require(
                0 < value < math.inf, f"{self.name}:{name}={value}: expected a positive number, such as {name}=0.01"
            )

    def check_fit(self, pool: ImageSet, num_classes: int) -> None:
        """Images must be large enough to be generated."""
        del num_classes
        check_side(self.name, pool.shape)

    def new_forger(self, thief: Thief, *, optimizer: Literal["adam", "gan", "sgd"] = "adam") -> Forger:
        """The attack's generator."""
        return Forger(
            thief.pool.shape,
            latent=self.latent,
            batch_size=self.batch_size,
            seed=derive(thief.seed, "attack", "generator"),
            device=thief.device,
            optimizer=optimizer,
            lr=self.generator_lr,
        )

    def new_learner(self, thief: Thief, loss: Loss, *names: object) -> Learner:
        """An untrained clone."""
        return Learner(thief, blank_clone(thief, *names), lr=self.clone_lr, loss=loss)

    def progress(self, stream: Stream) -> float:
        """Share of the horizon that is behind, at most 1."""
        return min(1.0, stream.size / self.horizon)


def _least(name: str) -> str:
    return "expected at least 2, for batch norm" if name == "batch_size" else "expected at least 1"


def blank_clone(thief: Thief, *names: object) -> Classifier:
    """A clone of somebody who has seen no image: with the weights to start from, or untrained for pixels in [-1, 1]."""
    if thief.start:
        return thief.start.copy(derive(thief.seed, "clone", *names))
    middle = [0.5] * thief.pool.shape[0]
    return create_network(
        thief.clone_arch,
        num_classes=thief.victim.num_classes,
        input_shape=thief.pool.shape,
        seed=derive(thief.seed, "clone", *names),
        mean=middle,
        std=middle,
    )


def recovered_logits(probabilities: Tensor) -> Tensor:
    """Log p - mean_k log p: the victim's logits up to a constant, rows [N, K] on the simplex; p of at least 1e-7."""
    logs = probabilities.clamp_min(_LEAST_PROBABILITY).log()
    return logs - logs.mean(dim=1, keepdim=True)


def logit_distance(logits: Tensor, targets: Tensor) -> Tensor:
    """mean_k |g_k - v_k| with the recovered logits v for rows [N, K]; cross-entropy for labels [N]; per image [N]."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    return (logits - recovered_logits(targets)).abs().mean(dim=1)


def divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """KL(y || softmax g) for rows y [N, K]; cross-entropy, which it is for one-hot rows, for labels [N]; per image [N]."""
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    return F.kl_div(F.log_softmax(logits, dim=1), targets, reduction="none").sum(dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy to rows [N, K] or labels [N]; per image [N]."""
    return F.cross_entropy(logits, targets, reduction="none")


def imbalance(shares: Tensor) -> Tensor:
    """sum_k p_k log p_k of the batch's mean probabilities, from [N, K]; least where all classes are as likely."""
    mean = shares.mean(dim=0)
    return (mean * (mean + _LEAST_SHARE).log()).sum()


def steps_down(progress: float, milestones: tuple[float, ...], factor: float) -> float:
    """The learning rate's share: ``factor`` for every milestone that lies behind.

    >>> [steps_down(share, (0.1, 0.5), 0.5) for share in (0.0, 0.1, 0.7)]
    [1.0, 0.5, 0.25]
    """
    return float(factor ** sum(progress >= milestone for milestone in milestones))


def cosine(progress: float) -> float:
    """The learning rate's share on half a cosine, from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def needs_steps(attack: StreamAttack, *names: str) -> None:
    """Refuse parameters that count something and are below 1."""
    for name in names:
        value = getattr(attack, name)
        require(value >= 1, f"{attack.name}:{name}={value}: expected at least 1")


@dataclass(frozen=True)
class Deceiver:
    """Steps of a generator up the clone's loss, estimated through a victim that only answers.

    Every step asks for a batch and, along m random directions, for copies of it a small ``step`` away: B (m + 1)
    queries in one call.
    """

    attack: DataFree
    forger: Forger
    learner: Learner
    loss: Loss
    directions: int
    step: float
    random: torch.Generator

    @classmethod
    def of(
        cls, attack: DataFree, thief: Thief, forger: Forger, learner: Learner, loss: Loss, directions: int, step: float
    ) -> Deceiver:
        """With the attack's own source of directions."""
        random = generator(thief.seed, "attack", "directions")
        return cls(attack, forger, learner, loss, directions, step, random)

    def deceive(self, stream: Stream, show: Show) -> Generator[Theft, None, tuple[Tensor, Tensor]]:
        """One step of the generator; returns the batch itself, [B, C, H, W] in [0, 1], and what the victim answered."""
        made = self.forger.draw()
        start = made.detach()
        directions = unit_directions(self.directions, start, self.random)
        images = pixels(torch.cat([start[None], start + self.step * directions]).flatten(0, 1))
        answers = yield from stream.ask(images, show)
        targets = self.attack.learn(answers).to(images.device)
        losses = self.loss(self.learner.logits(images), targets).view(self.directions + 1, len(made))
        self.forger.climb(made, estimated_gradient(losses[1:] - losses[0], directions, self.step))
        return images[: len(made)], targets[: len(made)]
