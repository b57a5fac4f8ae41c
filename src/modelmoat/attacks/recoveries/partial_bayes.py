"""Partial Bayes: the mean of the clean answers that the defense would have served like this one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from modelmoat.attacks.recoveries._lookup import posterior_mean
from modelmoat.attacks.recoveries._simulated import Drawing
from modelmoat.attacks.recoveries.base import RECOVERIES
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import require
from modelmoat.core.seeds import generator


@RECOVERIES.register("partial_bayes")
@dataclass(frozen=True, kw_only=True, repr=False)
class PartialBayes(Drawing):
    """Estimates E[clean | served] with a table of plausible clean rows and what the defense makes of them.

    Rows are drawn around guesses at the clean answers and put through the attacker's own copy of the defense. An answer
    becomes the mean of the clean rows whose served rows lie within max(``tolerance``, smallest distance) of it in L1, of
    the same top class where the defense keeps it. Where guesses are rough (``prior=answers`` or ``clone``), what comes out
    serves as the guesses of the next of ``rounds``. Memory: 8 K + 36 bytes per row of the table, and 48 MiB.

    Parameters:
        rows: of the table; the paper's has 1,000,000, fewer in the rounds of Jacobian attacks, where this one keeps them.
        concentration: of the draws; the paper's code uses 8.
        tolerance: in L1.
        rounds: tables built one after the other.
        prior, simulator, assumed, shadows: where guesses come from, and whose defense is simulated.
    """

    rows: int = 50_000
    tolerance: float = 0.01
    rounds: int = 3

    paper: ClassVar[str] = "Tang et al., ModelGuard, USENIX Security 2024 (partial Bayes attack)"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rounds >= 1, f"{self.name}:rounds={self.rounds}: expected at least 1")
        require(self.tolerance >= 0, f"{self.name}:tolerance={self.tolerance}: expected 0 or more, an L1 distance")

    def restore(self, transfer: Transfer, thief: Thief, stage: str) -> Transfer:
        """The same inputs with estimated clean answers."""
        simulation = self.simulation(transfer, thief, stage)
        found = self.guesses(transfer, thief, stage)
        for number in range(self.rounds if self.rough else 1):
            random = generator(thief.seed, "table", stage, number)
            table = self.table(simulation, found, transfer.images, random)
            found = posterior_mean(table, transfer.targets, tolerance=self.tolerance, same_top1=simulation.keeps_top1)
        return replace(transfer, targets=found)
