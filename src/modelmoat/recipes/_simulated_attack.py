"""What a simulated attacker's network would learn from a batch, as a function of the victim's answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

Divergence = Literal["attacker", "published"]
Path = Literal["forward_mode", "double_backward"]
Measure = Callable[[Tensor], Tensor]
"""Differentiable scalar of a gradient [P]."""


class SimulatedAttack:
    """One batch as an attacker distills it: victim scores v and student scores s, both [B, K].

    The student, of parameters phi [P], is frozen and in evaluation mode. Distilling gives it the gradient

        g = grad_phi (1/B) sum_i KL_i = sum_i J_i^T u_i(v),    J_i = ds_i / dphi,

    of which :meth:`measured` makes terms for the victim's loss. With ``attacker``, KL(p || q) of victim p and student
    q is what a distiller minimizes, and u = (q - p) / B. With ``published``, KL(q || p) is what the public code of InI
    computes, and u = q (log q - log p - KL(q || p)) / B.

    As g is linear in u, a term l(g) has the gradient (J_i r) du_i / dv_i with r = dl / dg: one backward pass for g and one
    forward-mode product J r replace differentiating twice through the student, and the result is exact for both.

    Args:
        student: the attacker's network.
        images: [B, C, H, W].
        victim: its scores for them, with their graph; None where only labels are distilled.
        divergence: which of the two.
        path: ``forward_mode``, or ``double_backward`` through the student's own graph, never faster and larger.
    """

    def __init__(
        self,
        student: nn.Module,
        images: Tensor,
        victim: Tensor,
        *,
        divergence: Divergence = "attacker",
        path: Path = "forward_mode",
    ) -> None:
        self._student, self._images, self._victim = student, images, victim
        self._divergence, self._path = divergence, path
        self._parameters = {name: value.detach().requires_grad_() for name, value in student.named_parameters()}
        self._still = _StillInputs()
        with self._still:
            self._scores = functional_call(student, self._parameters, (images,))
        self.scores: Tensor = self._scores.detach()

    def label_gradient(self, labels: Tensor) -> Tensor:
        """grad_phi of the student's cross-entropy to the labels, [P]."""
        return self._gradient(F.cross_entropy(self._scores, labels))

    def measured(self, measure: Measure) -> Tensor:
        """``measure(g)``, differentiable in the victim's scores."""
        if self._path == "double_backward":
            return measure(self._gradient(distillation_loss(self._victim, self._scores, self._divergence), twice=True))
        upstream = score_gradient(self._victim, self.scores, self._divergence)
        gradient = self._gradient(self._scores, upstream.detach()).requires_grad_()
        value = measure(gradient)
        (direction,) = torch.autograd.grad(value, gradient)
        linear = (upstream * self._pushed(direction)).sum()
        return value.detach() + (linear - linear.detach())

    def _gradient(self, outputs: Tensor, upstream: Tensor | None = None, *, twice: bool = False) -> Tensor:
        gradients = torch.autograd.grad(
            outputs, list(self._parameters.values()), upstream, retain_graph=True, create_graph=twice
        )
        return torch.cat([gradient.flatten() for gradient in gradients])

    def _pushed(self, direction: Tensor) -> Tensor:
        """J r, [B, K]: how the student's scores move with its parameters along ``direction`` [P]."""
        parts = direction.split([value.numel() for value in self._parameters.values()])
        with torch.no_grad(), forward_ad.dual_level(), self._still:
            moving = {
                name: forward_ad.make_dual(value.detach(), torch.empty_like(value).copy_(part.view_as(value)))
                for (name, value), part in zip(self._parameters.items(), parts, strict=True)
            }
            scores = functional_call(self._student, moving, (self._images,))
            pushed: Tensor = forward_ad.unpack_dual(scores).tangent
        return pushed


class _StillInputs(TorchFunctionMode):
    """What convolutions make of the images themselves, which no parameter moves, from the first pass for the second.

    Forward mode would compute it again, and would convolve zeros, as the images' tangent, with the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: deque[Tensor] = deque()  # in the order of the pass, which every pass has

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (
            func is not F.conv2d
            or kwargs
            or args[0].requires_grad
            or forward_ad.unpack_dual(args[0]).tangent is not None
        ):
            return func(*args, **(kwargs or {}))
        images, weight, bias, *rest = args
        if forward_ad.unpack_dual(weight).tangent is None:
            made = func(*args)
            self._made.append(made.detach())
            return made
        moving: list[Any] = [
            None if value is None else forward_ad.unpack_dual(value).tangent for value in (weight, bias)
        ]
        self._made.rotate(-1)
        return forward_ad.make_dual(self._made[-1], F.conv2d(images, *moving, *rest))


def distillation_loss(victim: Tensor, student: Tensor, divergence: Divergence) -> Tensor:
    """KL(p || q) for ``attacker`` and KL(q || p) for ``published``, averaged over rows of scores [B, K]."""
    log_p, log_q = F.log_softmax(victim, dim=1), F.log_softmax(student, dim=1)
    target, own = (log_p, log_q) if divergence == "attacker" else (log_q, log_p)
    return F.kl_div(own, target, reduction="batchmean", log_target=True)


def score_gradient(victim: Tensor, student: Tensor, divergence: Divergence) -> Tensor:
    """Gradient of the `distillation_loss` on the student's scores, [B, K]; differentiable in the victim's."""
    log_p, log_q = F.log_softmax(victim, dim=1), F.log_softmax(student, dim=1)
    q = log_q.exp()
    if divergence == "attacker":
        return (q - log_p.exp()) / len(q)
    gap = log_q - log_p
    return q * (gap - (q * gap).sum(dim=1, keepdim=True)) / len(q)
