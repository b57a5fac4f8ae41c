"""InI: a victim whose answers teach a simulated attacker nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.core.seeds import derive
from modelmoat.models import Classifier, create_network
from modelmoat.recipes._ood import OodBatches, OodRecipe
from modelmoat.recipes._pcgrad import ProjectedGradients, clipped_backward
from modelmoat.recipes._simulated_attack import Divergence, Path, SimulatedAttack, distillation_loss
from modelmoat.recipes.base import RECIPES, TrainingJob
from modelmoat.training import FitResult, FitSettings, Terms, Trained, make_optimizer

_WEIGHTS = ("beta", "gamma", "delta", "epsilon")


@RECIPES.register("ini")
@dataclass(frozen=True, kw_only=True, repr=False)
class Ini(OodRecipe):
    """Isolates what an attacker learns from answers from what labels teach, and induces answers that teach nothing.

    A student S, untrained unless ``student_steps`` says otherwise, plays the attacker. For training images (x, t) and as
    many out-of-distribution images x', with g the gradient that distilling the victim's answers gives to S, the loss is
    the cross-entropy to t plus

        - beta D(x) + gamma D(x') + delta cos(g(x), grad CE(S(x), t)) + epsilon mean|g(x')|,

    where D is the mean absolute difference between the scores of S and those of the victim less their own mean. The
    victim serves as any other: training costs more, an answer does not.

    Parameters:
        beta, gamma, delta, epsilon: weights; all 0 is standard training. Published for CIFAR-10. The mean of |g| falls
            with the size of S; tune ``epsilon`` so that its term starts between 0.01 and 0.1 (`training.jsonl` tells).
            Answers that are sure of the label give S just what the label gives, a cosine of 1: with ``attacker``, a
            ``delta`` of 1 is paid for in accuracy. With ``delta=0`` only images like ``ood`` teach nothing.
        pcgrad: project the gradients of the terms on each other, which scales them by about 1 / (number of terms).
        clip: longest total gradient without ``pcgrad``.
        divergence: what the attacker is taken to minimize: KL(victim || student), or with ``published`` the reverse,
            as the public code has it by an exchange of arguments.
        ood_goal: what gamma weighs: ``disagreement`` D(x'), or minus the ``entropy`` of the victim's answers to x'.
        student_steps: distillation steps of S on out-of-distribution images before each step of the victim; the public
            code takes none.
        student_lr: their learning rate, constant, with Nesterov momentum 0.9.
        student_arch: architecture of S; the victim's where it is None.
        second_order: ``forward_mode``, or ``double_backward`` for an architecture with an operation that has no
            forward derivative: same gradients, never faster, and more memory.
        ood: data reference without options, resized to the victim's input; or ``noise``, smoothed random pixels.
        ood_images: how many of them at most.

    Where the victim has batch norm, both batches pass through it as one, so that it sees them as it does when it serves.
    S computes in float32. An attacker who sends images like ``ood`` meets the victim where it was trained: choose another
    set for a fair test.
    """

    beta: float = 0.0
    gamma: float = 0.3
    delta: float = 1.0
    epsilon: float = 1000.0
    pcgrad: bool = True
    clip: float = 10.0
    divergence: Divergence = "attacker"
    ood_goal: Literal["disagreement", "entropy"] = "disagreement"
    student_steps: int = 0
    student_lr: float = 0.01
    student_arch: str | None = None
    second_order: Path = "forward_mode"

    paper: ClassVar[str] = (
        "Guo et al., Isolation and Induction: Training Robust Deep Neural Networks against Model Stealing Attacks, "
        "ACM MM 2023"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _WEIGHTS:
            require(getattr(self, name) >= 0, f"ini:{name}={getattr(self, name)}: expected 0 or more")
        require(self.clip > 0, f"ini:clip={self.clip}: expected a positive number, such as 10")
        require(self.student_steps >= 0, f"ini:student_steps={self.student_steps}: expected 0 or more")
        require(self.student_lr > 0, f"ini:student_lr={self.student_lr}: expected a positive number, such as 0.01")

    @property
    def active(self) -> bool:
        """Whether any term beside the cross-entropy has a weight."""
        return any(getattr(self, name) for name in _WEIGHTS)

    @property
    def uses_ood(self) -> bool:
        """Whether a term or the student looks at out-of-distribution images."""
        return bool(self.gamma or self.epsilon or (self.active and self.student_steps))

    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train on ``job.splits.train`` and ``job.ood``."""
        if not self.active:
            return job.fit_network(self, network)
        game = Game(self, network, job)
        projected = ProjectedGradients(network, job.seed)

        def on_epoch(epoch: int) -> None:
            game.start_epoch(epoch)
            projected.start_epoch(epoch)

        return job.fit_network(
            self,
            network,
            objective=game,
            backward=projected if self.pcgrad else clipped_backward(network, self.clip),
            companions={"student": game.student},
            on_epoch=on_epoch,
        )


class Game:
    """The objective of InI: what the victim minimizes, given a student that plays the attacker."""

    def __init__(self, recipe: Ini, network: Classifier, job: TrainingJob) -> None:
        self._recipe = recipe
        self._ood = OodBatches(job.ood, job) if job.ood else None
        student = create_network(
            recipe.student_arch or job.arch,
            num_classes=network.num_classes,
            input_shape=network.input_shape,
            seed=derive(job.seed, "ini", "student"),
            mean=network.mean.flatten().tolist(),
            std=network.std.flatten().tolist(),
        ).eval()
        optimizer = make_optimizer(student, FitSettings(lr=recipe.student_lr)) if recipe.student_steps else None
        self.student = Trained(student, optimizer)

    def start_epoch(self, epoch: int) -> None:
        """Seed the draws of an epoch."""
        if self._ood:
            self._ood.start_epoch(epoch)

    def __call__(self, network: nn.Module, images: Tensor, targets: Tensor) -> Terms:
        """Weighted terms of one batch."""
        exact = torch.autocast(images.device.type, enabled=False)
        with exact:
            self._teach_student(network, len(images))
        foreign = self._ood.take(len(images)) if self._ood else images[:0]
        known_scores, foreign_scores = answers_to_both(network, images, foreign)
        with exact:
            return {
                "benign": F.cross_entropy(known_scores, targets),
                **self._known_terms(images, targets, known_scores),
                **self._foreign_terms(foreign, foreign_scores),
            }

    def _known_terms(self, images: Tensor, targets: Tensor, scores: Tensor) -> dict[str, Tensor]:
        beta, delta = self._recipe.beta, self._recipe.delta
        terms: dict[str, Tensor] = {}
        if not beta and not delta:
            return terms
        attack = self._attack(images, scores)
        if beta:
            terms["known_disagreement"] = -beta * disagreement(scores, attack.scores)
        if delta:
            wanted = attack.label_gradient(targets)
            terms["isolation"] = delta * attack.measured(lambda learned: F.cosine_similarity(learned, wanted, dim=0))
        return terms

    def _foreign_terms(self, images: Tensor, scores: Tensor) -> dict[str, Tensor]:
        gamma, epsilon, goal = self._recipe.gamma, self._recipe.epsilon, self._recipe.ood_goal
        terms: dict[str, Tensor] = {}
        if not gamma and not epsilon:
            return terms
        attack = self._attack(images, scores)
        if gamma:
            value = disagreement(scores, attack.scores) if goal == "disagreement" else -mean_entropy(scores)
            terms[f"ood_{goal}"] = gamma * value
        if epsilon:
            terms["ood_gradient"] = epsilon * attack.measured(lambda learned: learned.abs().mean())
        return terms

    def _attack(self, images: Tensor, scores: Tensor) -> SimulatedAttack:
        recipe = self._recipe
        return SimulatedAttack(
            self.student.network, images, scores, divergence=recipe.divergence, path=recipe.second_order
        )

    def _teach_student(self, network: nn.Module, count: int) -> None:
        student, optimizer = self.student.network, self.student.optimizer
        if optimizer is None or self._ood is None:
            return
        network.eval()
        student.train()
        for _ in range(self._recipe.student_steps):
            images = self._ood.take(count)
            with torch.no_grad():
                answers = network(images)
            optimizer.zero_grad(set_to_none=True)
            distillation_loss(answers, student(images), "attacker").backward()
            optimizer.step()
        network.train()
        student.eval()


def answers_to_both(network: nn.Module, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [B, K] of two batches that may share batch norm's statistics; float32.

    Without batch norm they pass apart, so that the gradient of a term goes back through its own batch alone.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        first, second = network(torch.cat([images, others])).float().tensor_split((len(images),))
        return first, second
    return network(images).float(), network(others).float()


def disagreement(victim: Tensor, student: Tensor) -> Tensor:
    """Mean |s - c| of student scores s and victim scores less their own mean c, all [B, K]; blind to the student's graph.

    >>> disagreement(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(1.5000)
    """
    return (student.detach() - (victim - victim.mean(dim=1, keepdim=True))).abs().mean()


def mean_entropy(scores: Tensor) -> Tensor:
    """Entropy of softmax(z) in nats, averaged over rows of scores [B, K].

    >>> mean_entropy(torch.zeros(3, 4)) == torch.tensor(4.0).log()
    tensor(True)
    """
    log = F.log_softmax(scores, dim=1)
    return -(log.exp() * log).sum(dim=1).mean()
