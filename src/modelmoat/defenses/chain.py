"""Several defenses one after another, and what each of them costs."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from modelmoat.core.errors import ModelError, OptionError, UnknownReference, require
from modelmoat.core.records import StepCost
from modelmoat.defenses._checks import checked
from modelmoat.defenses.base import DEFENSES, Defense, Preparation
from modelmoat.metrics import agreement, l1_distances
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers, Responder

_CHANGES = ("mean_l1", "top1_changed", "total_l1", "total_top1_changed")
_PLUS = re.compile(r"\+(?=\s*(?:[A-Za-z_]\w*\s*(?::|\+|$)|\+|$))")


@dataclass(frozen=True, kw_only=True, repr=False)
class Chain(Defense):
    """Defenses in a row, written ``dcp:beta=0.5+rounding:decimals=2``: each one sees the answers of the one before.

    Raises:
        OptionError: fewer than two steps, a chain within a chain, or a step after the first that wants logits.

    >>> chain = parse_defense("dcp:beta=0.7 + rounding:decimals=1")
    >>> chain.spec, chain.keeps_top1, chain.exportable
    ('dcp:beta=0.7+rounding:decimals=1', False, True)
    """

    steps: tuple[Defense, ...]

    name: ClassVar[str] = "chain"
    paper: ClassVar[str] = "-"

    def __post_init__(self) -> None:
        require(
            len(self.steps) >= 2, f"a chain of {len(self.steps)} defenses; expected at least 2, such as dcp+rounding"
        )
        for number, step in enumerate(self.steps):
            require(
                not isinstance(step, Chain), f"'{step.spec}' is a chain within a chain; fix: join their steps with '+'"
            )
            require(
                number == 0 or "logits" not in step.needs,
                f"'{step.spec}' needs the model's logits, which are gone after '{self.steps[0].spec}'; fix: put it first",
            )
        self._declare(
            keeps_top1=all(step.keeps_top1 for step in self.steps),
            deterministic=all(step.deterministic for step in self.steps),
            stateful=any(step.stateful for step in self.steps),
            exportable=all(step.exportable for step in self.steps),
        )
        object.__setattr__(self, "needs", frozenset().union(*(step.needs for step in self.steps)))

    @cached_property
    def spec(self) -> str:
        """The specs of the steps, joined by ``+``."""
        return "+".join(step.spec for step in self.steps)

    @property
    def l1_bound(self) -> float:
        """Sum of the steps' bounds; 2 is no promise."""
        return min(2.0, sum(step.l1_bound for step in self.steps))

    def foreign(self, shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Those of all steps."""
        return tuple(reference for step in self.steps for reference in step.foreign(shape))

    def prepare(self, preparation: Preparation) -> PreparedChain:
        """Each step, prepared for the same victim."""
        return PreparedChain(self, [step.prepare(preparation) for step in self.steps])

    def restore(self, predictor: Predictor, tensors: Mapping[str, Tensor], *, device: str = "cpu") -> PreparedChain:
        """Each step, restored from its share of ``tensors``; raises as the steps do."""
        shares: list[dict[str, Tensor]] = [{} for _ in self.steps]
        for name, value in tensors.items():
            match = re.fullmatch(r"held\.(\d+)\.(.+)", name)
            if not match or int(match[1]) >= len(shares):
                raise ModelError(
                    f"saved state has tensor '{name}', which belongs to no step of '{self.spec}'; "
                    "fix: restore the chain that it was saved with"
                )
            shares[int(match[1])][match[2]] = value
        steps = [step.restore(predictor, share, device=device) for step, share in zip(self.steps, shares, strict=True)]
        return PreparedChain(self, steps)

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Rows after the last step; raises `OptionError` where a step has to be prepared first."""
        return _passed(self.steps, checked(clean, self.spec))[-1]

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Rows after the last step."""
        for step in self.steps:
            probabilities = step.forward(probabilities, inputs)
        return probabilities

    def step_costs(self, clean: Iterable[CleanAnswers]) -> list[StepCost]:
        """What each step costs on batches of clean answers; raises `OptionError` where a step must be prepared first."""
        return _costs(self.steps, clean, self.spec)


class PreparedChain(nn.Module):
    """A ready chain; its state is that of its steps."""

    def __init__(self, method: Chain, steps: Sequence[Responder]) -> None:
        super().__init__()
        self.method = method
        self.steps = tuple(steps)
        self.held = nn.ModuleDict({str(at): step for at, step in enumerate(steps) if isinstance(step, nn.Module)})

    @property
    def spec(self) -> str:
        """How the chain is written on the command line."""
        return self.method.spec

    @property
    def stateful(self) -> bool:
        """Whether any step's answers depend on earlier queries."""
        return any(step.stateful for step in self.steps)

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Rows after the last step, float32 [N, K]."""
        return _passed(self.steps, checked(clean, self.spec))[-1]

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Rows after the last step, in plain tensor code."""
        for step in self.steps:
            if not isinstance(step, (Defense, nn.Module)):
                raise OptionError(f"'{step.spec}' cannot be part of an exported graph; fix: leave it out of the chain")
            probabilities = step.forward(probabilities, inputs)
        return probabilities

    def step_costs(self, clean: Iterable[CleanAnswers]) -> list[StepCost]:
        """What each step costs on batches of clean answers; states stay as they are."""
        return _costs([copy.deepcopy(step) if step.stateful else step for step in self.steps], clean, self.spec)


def parse_defense(reference: str) -> Defense:
    """Build a defense from ``name:param=value,param=value``, or a chain of them from ``first+second``.

    A plus sign splits where the name of a defense follows it, never inside a number.

    >>> parse_defense("rounding:decimals=1").spec
    'rounding:decimals=1'
    >>> [step.spec for step in parse_defense("misinformation:nu=1e+3,tau=0.5+rounding").steps]
    ['misinformation:tau=0.5', 'rounding']
    """
    parts = [part.strip() for part in _PLUS.split(reference)]
    if len(parts) == 1:
        return DEFENSES.parse(reference)
    if not all(parts):
        raise UnknownReference(
            f"defense '{reference}': nothing on one side of a '+'; expected a defense on both, such as dcp+rounding"
        )
    return Chain(steps=tuple(DEFENSES.parse(part) for part in parts))


def _passed(steps: Sequence[Responder], clean: CleanAnswers) -> list[Tensor]:
    """Rows after each step."""
    rows = []
    for step in steps:
        served = step.respond(clean)
        clean = replace(clean, probabilities=served, logits=None)
        rows.append(served)
    return rows


def _costs(steps: Sequence[Responder], clean: Iterable[CleanAnswers], spec: str) -> list[StepCost]:
    changes: list[list[tuple[Tensor, ...]]] = [[] for _ in steps]
    for batch in clean:
        first = before = checked(batch, spec).probabilities
        for number, after in enumerate(_passed(steps, batch)):
            changes[number].append((*_changes(before, after), *_changes(first, after)))
            before = after
    return [
        StepCost(
            spec=step.spec, **dict(zip(_CHANGES, (_mean(column) for column in zip(*rows, strict=True)), strict=True))
        )
        for step, rows in zip(steps, changes, strict=True)
    ]


def _mean(batches: Iterable[Tensor]) -> float:
    return float(torch.cat(list(batches)).double().mean())


def _changes(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance and whether the top-1 moved, for each row."""
    return l1_distances(before, after), ~agreement(before, after)
