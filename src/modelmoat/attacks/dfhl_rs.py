"""DFHL-RS: data-free hard-label extraction that steals robustness too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.attacks._data_free import DataFree, cosine, imbalance, needs_steps, soft_cross_entropy
from modelmoat.attacks._generator import Forger, pixels
from modelmoat.attacks._stream import Learner, Stream
from modelmoat.attacks._views import strong, weak_kind
from modelmoat.attacks.base import ATTACKS
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator

_SMOOTHING = 0.2
_BALANCE = 3.0


@ATTACKS.register("dfhl_rs")
@dataclass(frozen=True, kw_only=True, repr=False)
class DFHLRS(DataFree):
    """Asks high-entropy examples, crafted from a growing bank of images that the clone tells apart.

    An epoch adds one batch to the bank, made without a query: ``generator_steps`` steps of the generator and its
    latents towards random classes of the clone, evenly spread. Then ``epoch_batches`` batches from the bank are
    augmented, moved by ``iterations`` signed steps of ``step`` up the entropy of the clone's answer, asked and learned:
    B queries each.
    """

    clone_lr: float = 0.1
    generator_lr: float = 1e-3
    horizon: int = 38_400_000
    generator_steps: int = 10
    """Steps of the generator and its latents for each batch that joins the bank."""
    epoch_batches: int = 500
    """Batches of the bank that are asked in an epoch."""
    iterations: int = 10
    """Signed steps up the entropy of the clone's answer."""
    step: float = 0.03
    """Their length, pixels in [0, 1]."""

    paper: ClassVar[str] = "Yuan et al., Data-Free Hard-Label Robustness Stealing Attack, AAAI 2024 (DFHL-RS)"

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_steps(self, "generator_steps", "epoch_batches")
        require(self.iterations >= 0, f"{self.name}:iterations={self.iterations}: expected 0 or more")
        require(0 < self.step < math.inf, f"{self.name}:step={self.step}: expected a positive number, such as 0.03")

    def pursue(self, thief: Thief, stream: Stream) -> Iterator[Theft]:
        """Epochs: one batch for the bank, many batches from it."""
        learner = self.new_learner(thief, soft_cross_entropy)
        forger = self.new_forger(thief)
        random = generator(thief.seed, "attack", "bank")
        kind = weak_kind("auto", *thief.pool.shape[:2])
        bank: list[Tensor] = []
        while True:
            bank.append(self.invent(forger, learner, random).cpu())
            images = torch.cat(bank)
            for _ in range(self.epoch_batches):
                learner.scale_lr(cosine(self.progress(stream)))
                rows = torch.randint(len(images), (self.batch_size,), generator=random)
                views = strong(images[rows], kind, random).to(learner.device)
                yield from self.teach(stream, learner, self.uncertain(learner, views))

    def invent(self, forger: Forger, learner: Learner, random: torch.Generator) -> Tensor:
        """A batch for the bank, [B, C, H, W] in [0, 1], that the clone assigns to random classes."""
        wanted = torch.randint(learner.network.num_classes, (self.batch_size,), generator=random).to(learner.device)
        latents = forger.latents().requires_grad_()
        own = torch.optim.Adam([latents], lr=self.generator_lr)
        for _ in range(self.generator_steps):
            logits = learner.gradient_logits(pixels(forger.network(latents)))
            loss = F.cross_entropy(logits, wanted, label_smoothing=_SMOOTHING)
            own.zero_grad(set_to_none=True)
            forger.descend(loss + _BALANCE * imbalance(logits.softmax(dim=1)), latents)
            own.step()
        with torch.no_grad():
            return pixels(forger.network(latents))

    def uncertain(self, learner: Learner, images: Tensor) -> Tensor:
        """Images moved up the entropy of the clone's answer, in [0, 1], however far from where they were."""
        for _ in range(self.iterations):
            leaf = images.detach().requires_grad_()
            logs = F.log_softmax(learner.gradient_logits(leaf), dim=1)
            (slope,) = torch.autograd.grad(-(logs.exp() * logs).sum(), leaf)
            images = (leaf.detach() + self.step * slope.sign()).clamp(0, 1)
        return images
