"""Adversarial robustness of victim and clone, and what the clone shows about fooling the victim."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from modelmoat.assessment.utility import bystander
from modelmoat.core.errors import OptionError
from modelmoat.core.seeds import generator
from modelmoat.data import ImageSet
from modelmoat.models import Predictor, TorchPredictor
from modelmoat.quantization import simulated_form
from modelmoat.training import as_float, predict_top1
from modelmoat.training.evasion import Evasion, Norm
from modelmoat.victims import ReplayPredictor, Victim

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Shares in [0, 1] of the test images that were attacked; named as in a record.

    A share of images on which a network is right counts those on which it is right before and after the attack.

    Attributes:
        robust_attack: how they were attacked.
        robust_epsilon: largest change, in pixels of [0, 1].
        robust_norm: what it is measured in.
        robust_size: images attacked.
        robust_accuracy: undefended victim, as it is served, attacked through its own gradients (an int8 victim through
            those of its simulated form, which pass its rounding straight through); None where it gives none.
        clone_robust_accuracy: clone, attacked through its own gradients.
        transfer: of the images that the victim serves the right answer for, those it no longer does once they are
            changed to fool the clone; None where it serves no right answer.
    """

    robust_attack: str
    robust_epsilon: float
    robust_norm: Norm
    robust_size: int
    robust_accuracy: float | None
    clone_robust_accuracy: float
    transfer: float | None


class RobustnessProbe:
    """Attacks a victim and its clones on the same test images, from the same random starts.

    Warns of a victim without gradients, whose robust accuracy stays unknown.

    Args:
        evasion: how.
        predictor: the undefended victim.
        test: images that neither was trained on.
        most: how many of them, drawn at random; all where there are fewer.
        progress: told what is attacked, images done, and images in all.

    Raises:
        OptionError: a recorded victim, which has no answers to new images.
        ModelError: an int8 victim whose files are damaged, or no torchao to read it.
    """

    def __init__(
        self,
        evasion: Evasion,
        predictor: Predictor,
        test: ImageSet,
        *,
        most: int,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        if isinstance(predictor, ReplayPredictor):
            raise OptionError(
                f"--robust {evasion.spec}: victim '{predictor.reference}' answers recorded inputs only, not images that "
                "were changed; fix: leave --robust out, or give the model itself"
            )
        self._evasion, self._predictor, self._progress = evasion, predictor, progress
        self._rows = torch.randperm(len(test), generator=generator(0, "robust"))[:most].sort().values
        self._images, self._labels = as_float(test.batch(self._rows)), test.labels[self._rows]
        self._network = differentiable(predictor, self._images[:1])
        if self._network is None:
            warnings.warn(
                f"--robust {evasion.spec}: model '{predictor.reference}' gives no gradients, so its robust_accuracy stays "
                "empty; fix: give the torch network or the artifact folder that it came from",
                stacklevel=2,
            )

    def measure(self, victim: Victim, clone: nn.Module, served: Tensor) -> Robustness:
        """Attack a clone and show what was crafted to the victim that it was stolen from.

        Args:
            victim: in the state that the theft left it in; it stays as it is, and no query is counted.
            clone: float images in [0, 1] to logits [N, K].
            served: what the victim serves for the test images, [N, K].
        """
        crafted = self._craft(clone, "attack on the clone")
        right = served[self._rows].argmax(dim=1) == self._labels
        fooled = bystander(victim).serve(crafted).labels != self._labels
        return Robustness(
            robust_attack=self._evasion.spec,
            robust_epsilon=self._evasion.epsilon,
            robust_norm=self._evasion.norm,
            robust_size=len(self._labels),
            robust_accuracy=self._victim_accuracy,
            clone_robust_accuracy=self._accuracy(lambda images: predict_top1(clone, images), crafted),
            transfer=float(fooled[right].double().mean()) if right.any() else None,
        )

    @cached_property
    def _victim_accuracy(self) -> float | None:
        if self._network is None:
            return None
        return self._accuracy(self._victim_top1, self._craft(self._network, "attack on the victim"))

    def _victim_top1(self, images: Tensor) -> Tensor:
        return self._predictor.predict(images).argmax(dim=1).cpu()

    def _accuracy(self, top1: Callable[[Tensor], Tensor], crafted: Tensor) -> float:
        right = [top1(images) == self._labels for images in (self._images, crafted)]
        return float((right[0] & right[1]).double().mean())

    def _craft(self, network: nn.Module, stage: str) -> Tensor:
        device, parts = next(network.parameters()).device, []
        for start in range(0, len(self._labels), _BATCH):
            rows = slice(start, start + _BATCH)
            images, labels = self._images[rows].to(device), self._labels[rows].to(device)
            parts.append(self._evasion.craft(network, images, labels, generator(0, "robust", start)).cpu())
            if self._progress:
                self._progress(stage, min(start + _BATCH, len(self._labels)), len(self._labels))
        return torch.cat(parts)


class _LogProbabilities(nn.Module):
    """A network that ends in a softmax, as one that gives logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.network(images)
        return probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()


def differentiable(predictor: Predictor, images: Tensor) -> nn.Module | None:
    """The model as a network from images to logits, or None where its answers have no gradient (ONNX files, functions).

    For an int8 victim that is its simulated form.
    """
    simulated = simulated_form(predictor)
    if simulated is not None:
        return simulated
    if not isinstance(predictor, TorchPredictor) or not any(True for _ in predictor.network.parameters()):
        return None
    network = predictor.network if predictor.outputs == "logits" else _LogProbabilities(predictor.network)
    with torch.enable_grad():
        leaf = images.to(predictor.device, copy=True).requires_grad_()
        logits = network.eval()(leaf)
        if not logits.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
    return None if gradient is None else network
