"""What every recovery promises."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.attacks.insight import Insight
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import OptionError, require
from modelmoat.core.registry import Method, Registry
from modelmoat.data import ImageSet
from modelmoat.victims import Answers
from modelmoat.victims.answers import OutputKind

ANY: frozenset[OutputKind] = frozenset({"probabilities", "top-k", "label"})
ROWS: frozenset[OutputKind] = frozenset({"probabilities", "top-k"})
WHOLE: frozenset[OutputKind] = frozenset({"probabilities"})


@dataclass(frozen=True, kw_only=True, repr=False)
class Recovery(Method):
    """What an attacker does about a defense, whatever strategy chooses its queries.

    It stands between the answers and the training of clones: a transfer set of inputs and answers goes in, the one that
    the clone is trained on comes out. It is applied anew before every training, to all answers so far.

    Class attributes that listings and conformance tests read:
        outputs: kinds of answers that it can use.
        knows: what the attacker is given for it, in words.
        changes_loss: clones have to be trained by a loss of its own.
    """

    outputs: ClassVar[frozenset[OutputKind]] = ANY
    changes_loss: ClassVar[bool] = False
    knows: ClassVar[str]

    def knowledge(self) -> str:
        """What the attacker is given and reckons with, in words; parameters may decide."""
        return self.knows

    def gives(self, kind: OutputKind) -> OutputKind:
        """The kind of answers that is left of answers of a kind."""
        return kind

    def informed(self, insight: Insight | None) -> Recovery:
        """The same recovery with what it takes from the attacker's knowledge; called before the first query.

        Raises:
            OptionError: there is nothing to know, or it does not help against this defense.
        """
        del insight
        return self

    def check_fit(self, pool: ImageSet, num_classes: int) -> None:
        """Raise `OptionError` where the pool or the victim's number of classes lack what is needed; asks nothing."""

    @abstractmethod
    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """The transfer set to train on.

        Args:
            transfer: inputs with rows of probabilities [N, K], or labels [N], as received or as the step before left
                them; not to be changed.
            thief: to train further networks with; its queries are spent.
            stage: what the clone is trained for, which also names all random draws.
        """


@dataclass(frozen=True, kw_only=True, repr=False)
class Pointwise(Recovery):
    """A recovery that looks at one answer at a time, so that it can act on each as it arrives."""

    @abstractmethod
    def recover(self, rows: Tensor) -> Tensor:
        """Rows on the simplex, [N, K] -> [N, K], each a function of its own row."""

    def receive(self, answers: Answers) -> Answers:
        """Recovered answers."""
        return Answers(self.gives(answers.kind), self.recover(answers.targets()))

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """The same inputs with recovered answers."""
        del thief, stage
        kind: OutputKind = "label" if transfer.targets.dim() == 1 else "probabilities"
        rows = self.recover(transfer.targets) if kind == "probabilities" else transfer.targets
        labels = rows.dim() == 2 and self.gives(kind) == "label"
        return replace(transfer, targets=rows.argmax(dim=1) if labels else rows)


@dataclass(frozen=True, kw_only=True, repr=False)
class Repeated(Recovery):
    """A recovery that asks every input ``copies`` times, as it is or slightly changed; every copy is a query."""

    copies: int = 3
    """Queries for each input."""

    def __post_init__(self) -> None:
        require(self.copies >= 1, f"{self.name}:copies={self.copies}: expected at least 1")

    @abstractmethod
    def spread(self, image: Tensor, random: torch.Generator) -> Tensor:
        """What is sent for one image [C, H, W]: [copies, C, H, W] of the same type."""

    @abstractmethod
    def merge(self, answers: Answers, rows: Tensor) -> Answers:
        """One answer for each input.

        Args:
            answers: to all copies, those of an input one after the other.
            rows: the same rows on the simplex, [N, copies, K].
        """

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """Nothing is left to do once the answers are merged."""
        del thief, stage
        return transfer


RECOVERIES: Registry[Recovery] = Registry("recovery", "modelmoat.attacks.recoveries")


def knowing(insight: Insight | None, spec: str) -> Insight:
    """The insight, or `OptionError` where the attacker was given none."""
    if insight is None:
        raise OptionError(
            f"'{spec}' reckons with a defense, and this attacker was told nothing of one; "
            "fix: Thief(insight=DefenseInsight(defense, victim)), or leave it to assess()"
        )
    return insight
