"""What an attacker who knows the defense is told: its specification; and what only an oracle knows."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from modelmoat.attacks import KnownStep
from modelmoat.core.errors import DataError, OptionError
from modelmoat.data import ImageSet
from modelmoat.defenses import Chain, Defense, Preparation, parse_defense
from modelmoat.models import Classifier, TorchPredictor
from modelmoat.training import as_float
from modelmoat.victims import CleanAnswers, Responder, Victim

_ROWS = 1024
_ACCOUNT = "attacker"
_LARGEST_SEED = 2**31


@dataclass(frozen=True)
class DefenseInsight:
    """The defense of a victim, as far as its attacker knows it.

    Honest is what `steps` and `simulate` give: the method and its parameters are known, as they should be assumed to be,
    but not what the defender draws or trains. Seeds among the parameters are drawn anew, networks are prepared with the
    attacker's own model, images and seeds, and a surrogate that the defender loads from a file is replaced by the method's
    usual one. `actual` and `clean` give what no attacker has, for the oracle variants that bound the honest ones.

    Args:
        defense: what stands before the model.
        victim: the attacked one; None where only what is known beforehand matters.
    """

    defense: Defense
    victim: Victim | None = None

    def steps(self, assumed: str | None = None) -> tuple[KnownStep, ...]:
        """The methods in order; raises `UsageError` where ``assumed`` is no defense."""
        return tuple(KnownStep(step.name, step.parameters(), step.needs) for step in _steps(self._method(assumed)))

    def simulate(
        self,
        assumed: str | None,
        stand_in: Classifier,
        images: ImageSet,
        received: Tensor,
        *,
        seed: int,
        device: str,
    ) -> Simulated:
        """The defense, prepared with what the attacker has; one that remembers is given the received answers first.

        Raises:
            OptionError: it cannot be prepared so.
        """
        method = _with_own_secrets(self._method(assumed), seed)
        stood_in = TorchPredictor(stand_in)
        preparation = Preparation(predictor=stood_in, train=images, seed=seed, device=device, simulated=True)
        try:
            ready = method.prepare(preparation)
        except DataError as error:
            raise OptionError(
                f"the attacker cannot prepare '{method.spec}' with its own {len(images):,} images: {error}"
            ) from error
        simulated = Simulated(ready, method)
        simulated.remember(received, images)
        return simulated

    def actual(self) -> Simulated:
        """The victim's ready defense in its present state."""
        ready = self._victim().defense
        return Simulated(parse_defense("none") if ready is None else copy.deepcopy(ready), self.defense)

    def clean(self, inputs: Tensor) -> Tensor:
        """The victim's undefended answers, [N, K]."""
        return self._victim().clean(inputs)

    def _method(self, assumed: str | None) -> Defense:
        return parse_defense(self.defense.spec if assumed is None else assumed)

    def _victim(self) -> Victim:
        if self.victim is None:
            raise OptionError("an oracle needs the victim itself; fix: DefenseInsight(defense, victim)")
        return self.victim


class Simulated:
    """A ready defense that rows can be put through; its state stays as it is.

    Args:
        ready: the defense; taken over.
        method: what it was prepared from.
    """

    def __init__(self, ready: Responder, method: Defense) -> None:
        self._ready = ready
        self.spec = method.spec
        self.keeps_top1 = method.keeps_top1
        self.needs_inputs = "inputs" in method.needs

    def respond(self, rows: Tensor, inputs: Tensor | None) -> Tensor:
        """Served rows of clean rows, both [N, K]."""
        images = torch.zeros(len(rows), 1, 1, 1) if inputs is None else as_float(inputs)
        served = []
        for part, shown in zip(rows.split(_ROWS), images.split(_ROWS), strict=True):
            ready = copy.deepcopy(self._ready) if self._ready.stateful else self._ready
            served.append(ready.respond(CleanAnswers(part, shown, _ACCOUNT)))
        return torch.cat(served)

    def remember(self, received: Tensor, images: ImageSet) -> None:
        """Put a defense with a memory into the state in which the attacker's own queries left it, as far as answers tell."""
        if not self._ready.stateful or not len(received):
            return
        for rows in torch.arange(len(received)).split(_ROWS):
            self._ready.respond(CleanAnswers(received[rows], as_float(images.batch(rows)), _ACCOUNT))


def _steps(method: Defense) -> tuple[Defense, ...]:
    return method.steps if isinstance(method, Chain) else (method,)


def _with_own_secrets(method: Defense, seed: int) -> Defense:
    """The method with seeds of the attacker's own, and without a surrogate from the defender's disk."""
    steps = tuple(_own(step, seed + at) for at, step in enumerate(_steps(method)))
    return Chain(steps=steps) if isinstance(method, Chain) else steps[0]


def _own(step: Defense, seed: int) -> Defense:
    known = {field.name: field.default for field in fields(step)}
    secrets: dict[str, Any] = {"seed": seed % _LARGEST_SEED} if "seed" in known else {}
    if "surrogate" in known and not str(step.parameters()["surrogate"]).isidentifier():
        secrets["surrogate"] = known["surrogate"]
    return replace(step, **secrets)
