"""DivQAT: quantization that moves answers away from those of the float32 network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.models import Classifier
from modelmoat.quantization import Simulated
from modelmoat.recipes.base import RECIPES, TrainingJob
from modelmoat.recipes.qat import QAT
from modelmoat.training import FitResult, Terms, TrainingDiverged, accuracy

Direction = Literal["q2f", "f2q", "js"]
_SMALLEST = 1e-12


@RECIPES.register("divqat")
@dataclass(frozen=True, kw_only=True, repr=False)
class DivQAT(QAT):
    """Quantization-aware training that keeps the label and maximizes the distance to the float32 answers.

    For softened answers p = softmax(z / T) of the simulated int8 network q and of the frozen reference f,

        CE(q(x), t) - alpha T^2 min(D(x), kappa),

    or with ``weighting="convex"`` (1 - alpha) CE - alpha T^2 min(D, kappa). The published loss is known only in words;
    this form is re-derived. D is one of

    - ``q2f``: KL(p_q || max(p_f, epsilon)). Mass moves to classes that the reference finds least likely. At T = 1 a leak
      pays from alpha = 1 / log(1 / epsilon) on and takes the top-1 near twice that: a cliff, at 0.11 and 0.22 for 1e-4.
    - ``f2q``: KL(p_f || p_q). Drives off-label probabilities to zero: nearly a label-only victim.
    - ``js``: the Jensen-Shannon divergence, at most log 2.

    At ``alpha=0`` this is `qat`, bit for bit.

    Parameters:
        alpha: weight of the divergence, which rises linearly to it over the first ``warmup`` share of all steps.
        temperature: T; 4 for 10 classes, 20 for 100 and more.
        direction: which divergence.
        weighting: ``plain`` or ``convex``; f2q with convex weights turns the labels around from alpha = 0.5 on.
        kappa: nats beyond which more divergence earns nothing.
        epsilon: least probability of the reference inside the logarithm of q2f.
        warmup: share of steps.
        reference: the ``float32`` network, or as an ablation the calibrated (``ptq``) or the tuned (``qat``) int8 one.
        max_drop: training stops where validation accuracy falls further than this below that of the calibrated network.
    """

    alpha: float = 0.04
    temperature: float = 4.0
    direction: Direction = "q2f"
    weighting: Literal["plain", "convex"] = "plain"
    kappa: float = 5.0
    epsilon: float = 1e-4
    warmup: float = 0.1
    reference: Literal["float32", "ptq", "qat"] = "float32"
    max_drop: float = 0.1

    paper: ClassVar[str] = (
        "Khaled et al., DivQAT: Enhancing Robustness of Quantized Convolutional Neural Networks against Model Extraction "
        "Attacks, 2025 (re-derived)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "alpha": (0 <= self.alpha <= 1, "a number in [0, 1], such as 0.04"),
            "temperature": (self.temperature > 0, "a positive number, such as 4"),
            "kappa": (self.kappa > 0, "a positive number of nats, such as 5"),
            "epsilon": (0 < self.epsilon < 1, "a probability above 0, such as 0.0001"),
            "warmup": (0 <= self.warmup < 1, "a share in [0, 1)"),
            "max_drop": (0 < self.max_drop <= 1, "a share in (0, 1], such as 0.1"),
        }
        for name, (good, expected) in limits.items():
            require(good, f"divqat:{name}={getattr(self, name)}: expected {expected}")
        require(
            self.weighting == "plain" or self.direction != "f2q" or self.alpha < 0.5,
            f"divqat:alpha={self.alpha}: expected less than 0.5 for direction=f2q,weighting=convex, which unlearns labels",
        )

    def tune(self, simulated: Simulated, network: Classifier, job: TrainingJob) -> FitResult:
        """Train against the reference; raises `TrainingDiverged` past the cliff, with the accuracy found there."""
        if self.alpha == 0:
            return super().tune(simulated, network, job)
        loss = _Loss(self, self._reference(simulated, network, job), steps=self._steps(job))
        validation = job.splits.validation
        before = accuracy(simulated, validation, validation.labels)
        return self.fit_simulated(simulated, job, objective=loss, on_epoch=loss.start_epoch, watch=self._watch(before))

    def _reference(self, simulated: Simulated, network: Classifier, job: TrainingJob) -> nn.Module:
        if self.reference == "float32":
            return network.eval()
        frozen = simulated.copy()
        if self.reference == "qat":
            self.fit_simulated(frozen, job, part="reference")
        return frozen.eval()

    def _steps(self, job: TrainingJob) -> int:
        return job.fit.steps_per_epoch(len(job.splits.train))

    def _watch(self, before: float) -> Callable[[float], None]:
        def watch(share: float) -> None:
            if share < before - self.max_drop:
                raise TrainingDiverged(
                    f"validation accuracy fell to {share:.1%} from {before:.1%} at divqat:alpha={self.alpha}, more than "
                    f"max_drop={self.max_drop} allows: alpha is past the cliff where the divergence outweighs the labels; "
                    f"fix: alpha={self.alpha / 2:.3g} or a lower tune_lr, in another folder"
                )

        return watch


class _Loss:
    """The objective, which knows how many steps lie behind it."""

    def __init__(self, recipe: DivQAT, reference: nn.Module, *, steps: int) -> None:
        self._recipe, self._reference, self._steps = recipe, reference, steps
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Count steps from the first one of an epoch."""
        self._step = epoch * self._steps

    def __call__(self, trained: nn.Module, images: Tensor, targets: Tensor) -> Terms:
        """Both weighted terms."""
        recipe = self._recipe
        with torch.no_grad():
            others = self._reference(images).float()
        scores = trained(images).float()
        alpha = recipe.alpha * min(
            1.0, (self._step + 0.5) / max(recipe.warmup * self._steps * recipe.tune_epochs, 1e-9)
        )
        self._step += 1
        distance = divergence(scores, others, recipe.temperature, recipe.direction, epsilon=recipe.epsilon)
        share = 1 - alpha if recipe.weighting == "convex" else 1.0
        return {
            "cross_entropy": share * F.cross_entropy(scores, targets),
            "divergence": -alpha * recipe.temperature**2 * distance.clamp_max(recipe.kappa).mean(),
        }


def divergence(scores: Tensor, others: Tensor, temperature: float, direction: Direction, *, epsilon: float) -> Tensor:
    """Distance in nats of each row of softened answers to the reference's, [N, K] and [N, K] to [N].

    >>> divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), 4.0, "f2q", epsilon=1e-4)
    tensor([0.])
    """
    log_q, log_f = (F.log_softmax(each / temperature, dim=1) for each in (scores, others))
    if direction == "q2f":
        return (log_q.exp() * (log_q - log_f.clamp_min(math.log(epsilon)))).sum(dim=1)
    if direction == "f2q":
        return (log_f.exp() * (log_f - log_q)).sum(dim=1)
    middle = ((log_q.exp() + log_f.exp()) / 2).clamp_min(_SMALLEST).log()
    return ((log_q.exp() * (log_q - middle)).sum(dim=1) + (log_f.exp() * (log_f - middle)).sum(dim=1)) / 2
