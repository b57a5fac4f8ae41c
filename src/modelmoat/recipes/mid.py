"""MID: a noisy bottleneck that limits what an answer says about its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import require
from modelmoat.core.seeds import derive, generator
from modelmoat.models import Classifier
from modelmoat.recipes.base import RECIPES, Recipe, TrainingJob
from modelmoat.training import FitResult, Terms

_LEAST_SIGMA = 1e-6


@RECIPES.register("mid")
@dataclass(frozen=True, kw_only=True, repr=False)
class Mid(Recipe):
    """Trains through a Gaussian code of the features and charges for the information in it.

    Features h give mean and deviation of a code z = mu(h) + sigma(h) * noise, and logits are linear in z. The loss is
    CE + beta KL(N(mu, sigma^2) || N(0, 1)), whose second term bounds the mutual information of input and code from
    above. The trained victim answers with z = mu(h), which is one linear layer on the features again; the published code
    keeps the noise on when it answers, so that answers are random.

    Parameters:
        beta: price of a nat; 0.003 (VGG-16 on faces) and 0.01 were published. The KL is a sum over the code.
        width: length of the code; half the features where none.
    """

    beta: float = 0.003
    width: int | None = None

    paper: ClassVar[str] = (
        "Wang et al., Improving Robustness to Model Inversion Attacks via Mutual Information Regularization, AAAI 2021"
    )

    def __post_init__(self) -> None:
        require(self.beta >= 0, f"mid:beta={self.beta}: expected 0 or more, such as 0.003")
        require(self.width is None or self.width >= 1, f"mid:width={self.width}: expected at least 1, or none for half")

    def train(self, network: Classifier, job: TrainingJob) -> FitResult:
        """Train the features with the bottleneck, then fold its mean into the network's last layer."""
        width = self.width or max(1, network.head.in_features // 2)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(job.seed, "bottleneck"))
            coded = Coded(network, width)
        noise = generator(job.share_seed, "noise", 0)

        def on_epoch(number: int) -> None:
            noise.manual_seed(derive(job.share_seed, "noise", number))

        def objective(trained: nn.Module, images: Tensor, targets: Tensor) -> Terms:
            del trained  # it is the coded network
            mu, sigma = coded.code(images)
            drawn = torch.randn(mu.shape, generator=noise).to(mu)
            scores = coded.decode(mu + sigma * drawn).float()
            return {
                "cross_entropy": F.cross_entropy(scores, targets),
                "information": self.beta * standard_divergence(mu, sigma).mean(),
            }

        result = job.fit_network(self, coded, objective=objective, on_epoch=on_epoch)
        coded.fold()
        return result


class Coded(nn.Module):
    """A classifier whose features pass a Gaussian code of ``width`` numbers; its forward pass takes the mean."""

    def __init__(self, network: Classifier, width: int) -> None:
        super().__init__()
        self.network = network
        self.network.head.requires_grad_(False)  # written when training is over
        self.encode = nn.Linear(network.head.in_features, 2 * width)
        self.decode = nn.Linear(width, network.num_classes)

    def code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the code, float32 [N, width] each."""
        mu, raw = self.encode(self.network.features(images)).float().chunk(2, dim=1)
        return mu, F.softplus(raw - 5).clamp_min(_LEAST_SIGMA)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] without noise."""
        scores: Tensor = self.decode(self.code(images)[0])
        return scores

    @torch.no_grad()
    def fold(self) -> None:
        """Write mean and decoder, two linear layers in a row, into the network's own last layer."""
        width = self.decode.in_features
        mean, bias = self.encode.weight[:width], self.encode.bias[:width]
        head = self.network.head.requires_grad_(True)
        head.weight.copy_(self.decode.weight @ mean)
        head.bias.copy_(self.decode.weight @ bias + self.decode.bias)


def standard_divergence(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) summed over the code, in nats, [N].

    >>> standard_divergence(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([0.])
    """
    return 0.5 * (mu.square() + sigma.square() - 1 - 2 * sigma.log()).sum(dim=1)
