"""MAD-argmax: the same, among answers that keep the top class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.defenses._checks import keep_top1
from modelmoat.defenses._gram import Gram
from modelmoat.defenses._poisoning import TIE, Poisoning, first_best
from modelmoat.defenses.base import DEFENSES

EXHAUSTIVE = 10  # classes up to which all subsets are tried
_TIE_BREAK = 1e-5


@DEFENSES.register("mad_argmax")
@dataclass(frozen=True, kw_only=True, repr=False)
class MadArgmax(Poisoning):
    r"""Like ``mad``, among answers that keep the top class: vertices are uniform over sets of classes that contain it.

    Up to 10 classes all 2^(K-1) sets are tried. Beyond, a set grows by the class that is best at each stage, from the
    top class alone, and the best set seen is taken; growing ends when ``evaluations`` sets have been tried (a stage once
    begun is finished). The top class gets 1e-5 more than the others of its set, and where rounding still puts another
    one first, the two are swapped. Parameters as for ``mad``. A thief that trains on labels alone undoes it.
    """

    evaluations: int = 1024
    """Sets of classes that are tried, where there are more than 10 classes."""

    keeps_top1: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.evaluations >= 1, f"mad_argmax:evaluations={self.evaluations}: expected at least 1")

    def vertex(self, y: Tensor, gram: Gram, pull: Tensor) -> Tensor:
        """The uniform row over the best set of classes, with the tie broken for the top class."""
        top = y.argmax(dim=1, keepdim=True)
        oracle = self._exhaustive if y.shape[1] <= EXHAUSTIVE else self._greedy
        members = oracle(gram, pull, top)
        rows = members / members.sum(dim=1, keepdim=True)
        return rows.scatter_add(1, top, torch.full_like(rows[:, :1], _TIE_BREAK)) / (1 + _TIE_BREAK)

    def finish(self, rows: Tensor, y: Tensor) -> Tensor:
        """Rows with the clean top class first."""
        return keep_top1(rows, y.argmax(dim=1, keepdim=True))

    def _exhaustive(self, gram: Gram, pull: Tensor, top: Tensor) -> Tensor:
        """Best of all sets with the top class, as zeros and ones [N, K]."""
        classes = pull.shape[1]
        order = (top + torch.arange(classes, device=pull.device)) % classes  # the top class first, the others in turn
        masks = _masks(classes).to(pull)
        total = pull.gather(1, order) @ masks.mT
        scores = self.score(total, gram.permuted(order).subset_squares(masks), masks.sum(dim=1))
        return torch.zeros_like(pull).scatter(1, order, masks[first_best(scores)[:, 0]])

    def _greedy(self, gram: Gram, pull: Tensor, top: Tensor) -> Tensor:
        """Best set seen while growing from the top class, as zeros and ones [N, K]."""
        classes, lengths = pull.shape[1], gram.diagonal()
        members = torch.zeros_like(pull).scatter(1, top, 1.0)
        cross, total, square = gram.column(top), pull.gather(1, top), lengths.gather(1, top)
        best, best_score = members, self.score(total, square, 1)
        count, tried = 1, 0
        while count < classes and tried < self.evaluations:
            squares = square + 2 * cross + lengths
            scores = self.score(total + pull, squares, count + 1).masked_fill(members > 0, -torch.inf)
            new = first_best(scores)
            members = members.scatter(1, new, 1.0)
            total, square = total + pull.gather(1, new), squares.gather(1, new)
            cross = cross + gram.column(new)
            reached = self.score(total, square, count + 1)
            better = reached > best_score + TIE
            best, best_score = torch.where(better, members, best), torch.where(better, reached, best_score)
            tried, count = tried + classes - count, count + 1
        return best


def _masks(classes: int) -> Tensor:
    """All sets of classes that contain the first, as zeros and ones [2^(K-1), K]."""
    halves = 2 ** torch.arange(classes - 1)
    bits = torch.arange(2 ** (classes - 1))[:, None] // halves % 2  # no shifts, which ONNX does not know
    return torch.cat([torch.ones(len(bits), 1), bits.float()], dim=1)
