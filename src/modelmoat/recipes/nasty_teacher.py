"""Nasty teacher: a victim as accurate as another and as unlike it as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.models import Classifier
from modelmoat.recipes.base import RECIPES, Recipe, TrainingJob
from modelmoat.training import FitResult, Terms


@RECIPES.register("nasty_teacher")
@dataclass(frozen=True, kw_only=True, repr=False)
class NastyTeacher(Recipe):
    """Trains with cross-entropy to the labels and away from the soft answers of an ordinary twin.

    A twin g is trained by the standard recipe first and frozen. Then, for softened answers p^T = softmax(z / T),

        CE(f(x), t) - omega T^2 KL(p_f^T || p_g^T).

    The second term has no lower bound: a large ``omega`` diverges. Training takes twice the time of the standard recipe.

    Parameters:
        omega: weight of the second term; at 0 this is standard training. Published: 0.04 for CIFAR-10, 0.005 for
            CIFAR-100, 0.01 for Tiny-ImageNet.
        temperature: T; 4 for CIFAR-10, 20 for the others.
    """

    omega: float = 0.04
    temperature: float = 4.0

    paper: ClassVar[str] = "Ma et al., Undistillable: Making A Nasty Teacher That CANNOT teach students, ICLR 2021"

    def __post_init__(self) -> None:
        require(self.omega >= 0, f"nasty_teacher:omega={self.omega}: expected 0 or more, such as 0.04")
        require(
            self.temperature > 0, f"nasty_teacher:temperature={self.temperature}: expected a positive number, such as 4"
        )

    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train a twin, then the victim."""
        if self.omega == 0:
            return job.fit_network(self, network)
        twin = job.fit_twin(self, network, "twin")

        def objective(trained: nn.Module, images: Tensor, targets: Tensor) -> Terms:
            scores = trained(images).float()
            with torch.no_grad():
                ordinary = twin(images).float()
            return {
                "cross_entropy": F.cross_entropy(scores, targets),
                "nasty": -self.omega * softened_divergence(scores, ordinary, self.temperature),
            }

        return job.fit_network(self, network, objective=objective)


def softened_divergence(scores: Tensor, others: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(a / T) || softmax(b / T)), averaged over rows of scores [N, K].

    >>> softened_divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), 4.0)
    tensor(0.)
    """
    ours, theirs = (F.log_softmax(each / temperature, dim=1) for each in (scores, others))
    return temperature**2 * F.kl_div(theirs, ours, reduction="batchmean", log_target=True)
