"""QUEEN's sensitive regions: how near to the middle of its class a query falls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelmoat.defenses._queen_features import class_means
from modelmoat.defenses._queen_mapping import PLANE, MappingNetwork

_TINY = 1e-12


def sensitivity(distance: Tensor, radius: Tensor, alpha: float = 1.0) -> Tensor:
    """Sensitivity of single queries, s(d) = erfc(alpha (d - rho) / rho) / 2, elementwise, in [0, 1].

    It falls with the distance from the middle of the class: 0.92 there, one half on the border of the region (alpha = 1).

    >>> sensitivity(torch.tensor([0.0, 0.5, 1.0]), torch.tensor(0.5))
    tensor([0.9214, 0.5000, 0.0786])
    """
    return 0.5 * torch.erfc(alpha * (distance - radius) / radius.clamp_min(_TINY))


class SensitivePlane(nn.Module):
    """The mapping network with the center mu_k and the sensitive radius rho_k of each class in its plane.

    rho_k = beta mean |u - mu_k| over the training features of class k. Unlike the published code, which stops after a
    thousand of them, all are used.
    """

    centers: Tensor
    radii: Tensor

    def __init__(self, mapping: MappingNetwork, num_classes: int) -> None:
        super().__init__()
        self.mapping = mapping
        self.register_buffer("centers", torch.zeros(num_classes, PLANE))
        self.register_buffer("radii", torch.zeros(num_classes))

    @torch.no_grad()
    def measure(self, features: Tensor, labels: Tensor, beta: float) -> None:
        """Set centers and radii from training features [N, D] with labels [N]."""
        self.mapping.eval()
        where = next(self.mapping.parameters()).device
        points = torch.cat([self.mapping(part.to(where)).cpu() for part in features.split(4096)])
        centers = class_means(points, labels, len(self.radii))
        distances = (points - centers[labels]).norm(dim=1, keepdim=True)
        self.centers.copy_(centers)
        self.radii.copy_(beta * class_means(distances, labels, len(self.radii))[:, 0])

    def locate(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Points u [N, 2] of features [N, D], and their distances [N] from the centers of classes ``labels`` [N]."""
        points: Tensor = self.mapping(features)
        return points, (points - self.centers[labels]).norm(dim=1)
