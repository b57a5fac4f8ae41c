"""The one boundary: queries in, answers out, every one of them counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modelmoat.core.errors import DataError, InvalidAnswer
from modelmoat.core.shapes import by, reshape_options
from modelmoat.models import Predictor
from modelmoat.training import as_float
from modelmoat.victims.answers import EXPLAINED, Answers, OutputFormat
from modelmoat.victims.clean import CleanAnswers, clean_answers
from modelmoat.victims.explanations import check_explains, explain
from modelmoat.victims.hashing import Keys, input_keys
from modelmoat.victims.journal import Journal
from modelmoat.victims.ledger import Ledger
from modelmoat.victims.memory import BatchMemory

BATCH = 1024
_SIMPLEX_TOLERANCE = 1e-3


class Responder(Protocol):
    """A ready defense: turns clean answers into served ones, rows on the simplex."""

    @property
    def spec(self) -> str:
        """How the defense is written on the command line."""
        ...

    @property
    def stateful(self) -> bool:
        """Whether an answer depends on earlier queries."""
        ...

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Served rows, float32 [N, K]."""
        ...


class QueryTarget(Protocol):
    """All that an attack sees of a victim."""

    @property
    def num_classes(self) -> int:
        """Length of a row of answers."""
        ...

    @property
    def output(self) -> OutputFormat:
        """What an answer looks like."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Queries spent and left."""
        ...

    def query(self, inputs: Tensor, account: str = "default") -> Answers:
        """Answers to a batch of inputs, counted."""
        ...


class Victim:
    """A model with its defense, its output format and its ledger.

    Args:
        predictor: the model.
        defense: changes answers; None serves them clean.
        output: how much of an answer leaves; ``probabilities``, ``top3``, ``label`` or ``probabilities+explanation``.
        ledger: counts queries; a new one without a limit by default.
        memory: keeps the model's own answers to batches; None asks the model every time.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        defense: Responder | None = None,
        output: OutputFormat | str = "probabilities",
        ledger: Ledger | None = None,
        memory: BatchMemory | None = None,
    ) -> None:
        self.predictor = predictor
        self.memory = memory
        self.defense = defense
        self.output = OutputFormat.parse(output) if isinstance(output, str) else output
        self.ledger = ledger or Ledger()
        if self._explains:
            check_explains(predictor)

    @property
    def num_classes(self) -> int:
        """Length of a row of answers."""
        return self.predictor.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an input; None where any size will do."""
        return self.predictor.input_shape

    def query(self, inputs: Tensor, account: str = "default") -> Answers:
        """Answer a batch of inputs; each counts as one query, repeats included.

        Args:
            inputs: [N, C, H, W], float in [0, 1] or uint8.
            account: who asks.

        Raises:
            BudgetExhausted: more inputs than the budget has left; none was answered or charged.
            DataError: inputs of another shape or range than the model takes.
            InvalidAnswer: the model or the defense returned something that is not an answer.
        """
        inputs = self._checked(inputs)
        self.ledger.admit(len(inputs))
        return Answers.join([self._query_batch(part, account) for part in inputs.split(BATCH)])

    def serve(self, inputs: Tensor, account: str = "benign") -> Answers:
        """Answer without counting: for measuring what a defense costs its users, never for an attack."""
        inputs = self._checked(inputs)
        rows = torch.cat([self._served(part, account) for part in inputs.split(BATCH)])
        return Answers(self.output.kind, rows)

    def serve_known(self, clean: CleanAnswers) -> Answers:
        """As `serve`, where the model's own answers are known already."""
        return Answers(self.output.kind, self._defended(clean))

    def clean(self, inputs: Tensor) -> Tensor:
        """Undefended probabilities, float32 [N, K]: for measuring, never for an attack."""
        inputs = self._checked(inputs)
        return torch.cat([clean_answers(self.predictor, part, "owner").probabilities for part in inputs.split(BATCH)])

    def owner(self) -> dict[str, Any]:
        """All that an answer depends on but the input: names the journal of this victim."""
        return {
            "victim": self.predictor.digest,
            "defense": self.defense.spec if self.defense else "none",
            "output": str(self.output),
            "classes": self.num_classes,
            **({"values": self.num_classes + math.prod(self.input_shape or ())} if self._explains else {}),
        }

    def with_ledger(self, budget: int | None, journal: Path | None = None) -> Victim:
        """The same victim with a fresh ledger; with a journal, answers paid for earlier are not asked again."""
        ledger = Ledger(budget, Journal(journal, self.owner()) if journal else None)
        return Victim(self.predictor, defense=self.defense, output=self.output, ledger=ledger, memory=self.memory)

    def _query_batch(self, inputs: Tensor, account: str) -> Answers:
        keys = input_keys(inputs)
        replayed = self.ledger.replay(keys, account)
        known = len(replayed)
        if known and self.defense and self.defense.stateful:
            self._served(
                inputs[:known], account, keys[:known]
            )  # a replayed query leaves the same trace as an answered one
        if known == len(inputs):
            return self._answers(replayed, inputs)
        fresh = self._served(inputs[known:], account, keys[known:])
        if self._explains:
            fresh = torch.cat([fresh, explain(self.predictor, inputs[known:]).flatten(1)], dim=1)
        self.ledger.record(keys[known:], account, fresh)
        return self._answers(torch.cat([replayed, fresh]) if known else fresh, inputs)

    @property
    def _explains(self) -> bool:
        return self.output.kind == EXPLAINED

    def _answers(self, rows: Tensor, inputs: Tensor) -> Answers:
        """Answers from what the ledger keeps of each: its row, and after it the explanation."""
        explanations = rows[:, self.num_classes :].reshape(inputs.shape) if self._explains else None
        return Answers(self.output.kind, rows[:, : self.num_classes], explanations)

    def _served(self, inputs: Tensor, account: str, keys: Keys | None = None) -> Tensor:
        if self.memory is None or keys is None:
            return self._defended(clean_answers(self.predictor, inputs, account))
        return self._defended(self.memory.ask(self.predictor, inputs, keys, account))

    def _defended(self, clean: CleanAnswers) -> Tensor:
        rows = self.defense.respond(clean) if self.defense else clean.probabilities
        if self.defense:
            _check_simplex(rows, clean.probabilities, self.defense.spec)
        return self.output.apply(rows)

    def _checked(self, inputs: Tensor) -> Tensor:
        if inputs.ndim != 4 or len(inputs) == 0:
            raise DataError(f"inputs of shape {tuple(inputs.shape)}: expected [N, C, H, W] with at least one image")
        shape = tuple(inputs.shape[1:])
        if self.input_shape and shape != self.input_shape:
            raise DataError(
                f"inputs of shape {by(shape)}: the victim takes {by(self.input_shape)} (channels x height x width); "
                f"fix: load data with {reshape_options(shape, self.input_shape)}"
            )
        if inputs.dtype == torch.uint8:
            return as_float(inputs)
        inputs = inputs.detach().to(torch.float32)
        low, high = float(inputs.min()), float(inputs.max())
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"inputs from {low:.4g} to {high:.4g}: expected pixels in [0, 1], or uint8; fix: scale or clamp them"
            )
        return inputs


def _check_simplex(rows: Tensor, clean: Tensor, spec: str) -> None:
    if rows.shape != clean.shape:
        raise InvalidAnswer(f"defense '{spec}' returned shape {tuple(rows.shape)}: expected {tuple(clean.shape)}")
    worst = float((rows.sum(dim=1) - 1).abs().max())
    if not (worst <= _SIMPLEX_TOLERANCE and float(rows.min()) >= 0):
        raise InvalidAnswer(
            f"defense '{spec}' returned rows off the simplex: smallest entry {float(rows.min()):.3g}, sum off by {worst:.3g}; "
            f"expected entries of at least 0 and sums within {_SIMPLEX_TOLERANCE} of 1"
        )
