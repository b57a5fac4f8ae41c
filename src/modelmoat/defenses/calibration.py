"""The strongest setting of a defense that its users can live with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modelmoat.core.errors import OptionError, require
from modelmoat.defenses.base import Defense
from modelmoat.defenses.chain import Chain, PreparedChain
from modelmoat.defenses.dial import Dial
from modelmoat.defenses.prepared import renamed_state, saved_state
from modelmoat.metrics import l1_distances, top1_accuracy
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers, Responder

_POSITIONS = 9
_HALVINGS = 10
_SLACK = 1e-6  # float32 sums of a row


@dataclass(frozen=True, kw_only=True)
class UtilityBudget:
    """What a defense may cost its users; None is no limit.

    Attributes:
        max_accuracy_drop: clean minus defended accuracy, a share in [0, 1].
        max_l1: mean L1 distance between clean and served answers, in [0, 2].
    """

    max_accuracy_drop: float | None = None
    max_l1: float | None = None

    def __post_init__(self) -> None:
        for name, most, words in (
            ("max_accuracy_drop", 1, "a share such as 0.01"),
            ("max_l1", 2, "an L1 distance such as 0.5"),
        ):
            given = getattr(self, name)
            require(given is None or 0 <= given <= most, f"{name}={given}: expected 0 to {most}, {words}")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.max_accuracy_drop is not None or self.max_l1 is not None

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within all limits."""
        drop, l1 = self.max_accuracy_drop, self.max_l1
        return (drop is None or cost.accuracy_drop <= drop + _SLACK) and (l1 is None or cost.mean_l1 <= l1 + _SLACK)

    def __str__(self) -> str:
        limits = {"accuracy drop": self.max_accuracy_drop, "mean L1": self.max_l1}
        return ", ".join(f"{name} of at most {limit:g}" for name, limit in limits.items() if limit is not None)


@dataclass(frozen=True)
class Cost:
    """What a defense costs on some labeled images: accuracies in [0, 1], mean L1 in [0, 2]."""

    clean_accuracy: float
    accuracy: float
    mean_l1: float

    @property
    def accuracy_drop(self) -> float:
        """Clean minus defended accuracy; negative where the defense helps."""
        return self.clean_accuracy - self.accuracy


@dataclass(frozen=True)
class Calibrated:
    """A defense at the setting that was found.

    Attributes:
        method: the defense with its parameter set.
        ready: the same, ready to answer, in its first state.
        cost: what it costs on the calibration images.
        parameter: the parameter that was turned, such as ``mad:epsilon``.
        value: where it was left.
    """

    method: Defense
    ready: Responder
    cost: Cost
    parameter: str
    value: float


def calibrate(
    method: Defense,
    ready: Responder,
    predictor: Predictor,
    clean: Sequence[CleanAnswers],
    labels: Tensor,
    budget: UtilityBudget,
    *,
    step: str | None = None,
    device: str = "cpu",
) -> Calibrated:
    """Turn the dial of a defense as far as a utility budget allows.

    Nine settings from the weakest to the strongest are tried; between the strongest one within the budget and the next,
    the range is halved ten times. Costs need not rise with the dial: the strongest setting that was tried and lies within
    the budget wins. A stateful defense starts anew at each setting.

    Args:
        method: the defense; the value that it has for the parameter in question plays no part.
        ready: the same, prepared for ``predictor``; stays as it is.
        predictor: the undefended victim.
        clean: its answers to the calibration images, in batches; validation images, never test images.
        labels: of these images, int64 [N].
        budget: what may be lost.
        step: in a chain with several dials, the name of the step to turn.
        device: where networks of the defense run.

    Raises:
        OptionError: there is no dial, more than one and no ``step``, or even the weakest setting exceeds the budget.
    """
    at, dial = find_dial(method, predictor.num_classes, step)

    def set_to(value: float) -> tuple[Defense, Responder]:
        tuned = with_value(method, at, dial.parameter, value)
        return tuned, retuned(ready, tuned, predictor, device=device)

    def cost(value: float) -> Cost:
        return measure_cost(set_to(value)[1], clean, labels)

    value, found = _strongest(dial, cost, budget, f"{_steps(method)[at].name}:{dial.parameter}")
    return Calibrated(*set_to(value), found, f"{_steps(method)[at].name}:{dial.parameter}", value)


def measure_cost(ready: Responder, clean: Sequence[CleanAnswers], labels: Tensor) -> Cost:
    """What a ready defense costs on answers [N, K] in batches; its state stays as it is."""
    own = copy.deepcopy(ready) if ready.stateful else ready
    before = torch.cat([part.probabilities for part in clean])
    after = torch.cat([own.respond(part) for part in clean])
    return Cost(top1_accuracy(before, labels), top1_accuracy(after, labels), float(l1_distances(before, after).mean()))


def retuned(ready: Responder, method: Defense, predictor: Predictor, *, device: str = "cpu") -> Responder:
    """A copy of a ready defense that follows ``method``, the same one with its dials set elsewhere.

    Raises:
        ModelError: ``ready`` is of another defense or victim.
    """
    if isinstance(method, Chain) and isinstance(ready, PreparedChain):
        parts = zip(ready.steps, method.steps, strict=True)
        return PreparedChain(method, [retuned(part, step, predictor, device=device) for part, step in parts])
    return method.restore(predictor, renamed_state(saved_state(ready), method.spec), device=device)


def with_value(method: Defense, at: int, parameter: str, value: float) -> Defense:
    """The method with one parameter of its step number ``at`` set."""
    steps = list(_steps(method))
    steps[at] = replace(steps[at], **{parameter: value})
    return Chain(steps=tuple(steps)) if isinstance(method, Chain) else steps[0]


def _steps(method: Defense) -> tuple[Defense, ...]:
    return method.steps if isinstance(method, Chain) else (method,)


def find_dial(method: Defense, num_classes: int, step: str | None) -> tuple[int, Dial]:
    """Number of the step to turn, and its dial; raises `OptionError` where there is none, or more than one."""
    dials = {at: dial for at, part in enumerate(_steps(method)) if (dial := part.dial(num_classes))}
    if step is not None:
        dials = {at: dial for at, dial in dials.items() if _steps(method)[at].name == step}
    if len(dials) == 1:
        return next(iter(dials.items()))
    names = ", ".join(part.name for part in _steps(method))
    if not dials:
        raise OptionError(
            f"defense '{method.spec}' has no parameter to calibrate{f' at {step}' if step else ''} (its steps: {names}); "
            "fix: leave out the limits and set its parameters yourself"
        )
    several = ", ".join(_steps(method)[at].name for at in dials)
    raise OptionError(
        f"defense '{method.spec}' could be calibrated at {several}; fix: choose one of them with --calibrate NAME"
    )


def _strongest(dial: Dial, cost: Callable[[float], Cost], budget: UtilityBudget, parameter: str) -> tuple[float, Cost]:
    """Value of the strongest setting within the budget, and its cost."""
    shares = dial.positions(_POSITIONS)
    costs = [cost(dial.at(share)) for share in shares]
    within = [number for number, found in enumerate(costs) if budget.allows(found)]
    if not within:
        raise OptionError(
            f"{parameter}: no setting keeps {budget}; at {dial.at(0.0):g}, the weakest, mean L1 is {costs[0].mean_l1:.3g} and "
            f"accuracy drops by {costs[0].accuracy_drop:.3g}; fix: a larger limit, or another defense"
        )
    last = within[-1]
    if last == len(shares) - 1 or (dial.whole and len(shares) < _POSITIONS):
        return dial.at(shares[last]), costs[last]
    low, high, best = shares[last], shares[last + 1], (dial.at(shares[last]), costs[last])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = cost(dial.at(middle))
        if budget.allows(found):
            low, best = middle, (dial.at(middle), found)
        else:
            high = middle
    return _readable(best, dial, cost, budget)


def _readable(
    best: tuple[float, Cost], dial: Dial, cost: Callable[[float], Cost], budget: UtilityBudget
) -> tuple[float, Cost]:
    """The nearest value with three significant digits that is still within the budget: it, or one on the weaker side."""
    if isinstance(best[0], int) or best[0] == 0:
        return best
    nearest = float(f"{best[0]:.3g}")
    weaker = math.copysign(10.0 ** (math.floor(math.log10(abs(nearest))) - 2), dial.weakest - nearest)
    for value in (nearest, float(f"{nearest + weaker:.3g}")):
        found = cost(value)
        if budget.allows(found):
            return value, found
    return best
