"""Closed-form inverses: undo a defense whose formula is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from modelmoat.attacks.insight import Insight, KnownStep
from modelmoat.attacks.recoveries._elementwise import Curve, ElementwiseInverse
from modelmoat.attacks.recoveries.base import RECOVERIES, WHOLE, Pointwise, knowing
from modelmoat.core.errors import OptionError
from modelmoat.victims.answers import OutputKind

Undo = Callable[[Tensor], Tensor]

_EDGE = 1e-7
_ODDS_EDGE = 1e-12


@RECOVERIES.register("inverse")
@dataclass(frozen=True, kw_only=True, repr=False)
class Inverse(Pointwise):
    """Solves for the clean answer behind a reverse sigmoid or DCP, with the defense's own parameters.

    Both change every entry by one curve h and divide by the sum Z: for each row, Z is searched such that the entries
    h^-1(Z s_k) sum to one (see `ElementwiseInverse`). The curve is not monotone, so that some served rows have more than
    one clean row behind them; then a likely one is taken. DCP answers of confidence ``beta`` and above are clean and stay;
    those below are inverted as if fully perturbed, which is wrong within about 0.01 of ``beta``. Rows with nothing behind
    them become the nearest that has, or stay where no entry fits.

    Parameters:
        assumed: a defense that the attacker guesses, such as ``(dcp:beta=0.3,gamma=0.1)``; None is the victim's own,
            known with its parameters. Without any defense, answers stay as they are.

    Raises:
        OptionError: a defense, or a step of one, that has no such inverse.
    """

    assumed: str | None = None

    paper: ClassVar[str] = "-"
    outputs: ClassVar[frozenset[OutputKind]] = WHOLE
    knows: ClassVar[str] = "the victim's defense with its parameters"

    def knowledge(self) -> str:
        """The defense, or which one the attacker guesses."""
        return self.knows if self.assumed is None else f"assumes the defense {self.assumed}, right or wrong"

    def informed(self, insight: Insight | None) -> Known:
        """With the steps to undo, the last first."""
        steps = knowing(insight, self.spec).steps(self.assumed)
        if not invertible(steps):
            raise OptionError(
                f"'{self.spec}' has no closed-form inverse of '{'+'.join(step.name for step in steps)}', only of "
                f"{', '.join(sorted(_CURVES))}; fix: partial_bayes or d_dae, which learn one, or label_only"
            )
        return Known(undo=tuple(step for step in reversed(steps) if step.name != "none"), assumed=self.assumed)

    def recover(self, rows: Tensor) -> Tensor:
        """Only once it is known what to undo: raises `OptionError`."""
        del rows
        raise OptionError(f"'{self.spec}' does not know yet what to undo; fix: call informed(insight) first")


@dataclass(frozen=True, kw_only=True, repr=False)
class Known(Inverse):
    """An inverse that knows which steps to undo, in this order."""

    undo: tuple[KnownStep, ...] = ()

    name: ClassVar[str] = "inverse"

    @cached_property
    def spec(self) -> str:
        """That of the recovery it was made of."""
        return replace(Inverse(), assumed=self.assumed).spec

    def recover(self, rows: Tensor) -> Tensor:
        """Clean rows, [N, K] -> [N, K]."""
        for step in self.undo:
            rows = _INVERSES[step.name](step.parameters)(rows)
        return rows


def invertible(steps: Sequence[KnownStep]) -> bool:
    """Whether there is a closed-form inverse of every step."""
    return all(step.name in _CURVES or step.name == "none" for step in steps)


def undo_reverse_sigmoid(parameters: Mapping[str, Any]) -> Undo:
    """From the parameters of ``reverse_sigmoid``; entries that it clipped to zero cannot be told."""
    if parameters["beta"] == 0:
        return _unchanged
    solver = _solver("reverse_sigmoid", *(parameters[key] for key in ("beta", "gamma", "variant")))
    return lambda rows: solver(rows)[0]


def undo_dcp(parameters: Mapping[str, Any]) -> Undo:
    """From the parameters of ``dcp``; rows whose top class it swapped back (``keep_top1``) cannot be told."""
    if parameters["beta"] == 0:
        return _unchanged
    solver = _solver("dcp", *(parameters[key] for key in ("beta", "gamma", "clamp")))
    beta = parameters["beta"]

    def undo(rows: Tensor) -> Tensor:
        gated = (rows.amax(dim=1) < beta).nonzero()[:, 0]
        return rows.index_copy(0, gated, solver(rows[gated])[0]) if len(gated) else rows

    return undo


def _reverse_sigmoid_curve(beta: float, gamma: float, variant: str) -> Curve:
    """Y - beta (sigmoid(gamma logit(y)) - 1/2)."""

    def curve(y: Tensor) -> Tensor:
        log_odds = torch.logit(y.clamp(_EDGE, 1 - _EDGE))
        log_odds = log_odds.clamp_max(0.0) if variant == "odds_clamped" else log_odds
        return y - beta * (torch.sigmoid(gamma * log_odds) - 0.5)

    return curve


def _dcp_curve(beta: float, gamma: float, clamp: str) -> Curve:
    """The same for a row that is gated; the odds are clamped as the defense does."""
    if clamp == "prob":
        return _reverse_sigmoid_curve(beta, gamma, "textbook")

    def curve(y: Tensor) -> Tensor:
        return y - beta * (torch.sigmoid(gamma * torch.log((y / (1 - y)).clamp(_ODDS_EDGE, 1.0))) - 0.5)

    return curve


_CURVES = {"reverse_sigmoid": _reverse_sigmoid_curve, "dcp": _dcp_curve}
_INVERSES = {"reverse_sigmoid": undo_reverse_sigmoid, "dcp": undo_dcp}


@cache
def _solver(name: str, amplitude: float, gamma: float, variant: str) -> ElementwiseInverse:
    ceiling = min(1.0, amplitude) if name == "dcp" else 1.0  # surer rows are served as they are
    floor = _ODDS_EDGE if (name, variant) == ("dcp", "odds") else _EDGE
    return ElementwiseInverse(_CURVES[name](amplitude, gamma, variant), floor=floor, ceiling=ceiling)


def _unchanged(rows: Tensor) -> Tensor:
    return rows
