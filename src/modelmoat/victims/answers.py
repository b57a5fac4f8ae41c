"""What a victim returns, and in which form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmoat.core.errors import OptionError, require

OutputKind = Literal["probabilities", "top-k", "label", "probabilities+explanation"]
EXPLAINED: OutputKind = "probabilities+explanation"


@dataclass(frozen=True)
class OutputFormat:
    """How much of a row of probabilities leaves the victim: all of it, the ``k`` largest, or the label.

    With an explanation, it is all of it and the gradient of the largest probability in the input's pixels.

    Of equal probabilities, those of the first classes leave.
    """

    kind: OutputKind = "probabilities"
    k: int | None = None

    @classmethod
    def parse(cls, text: str) -> OutputFormat:
        """Read ``probabilities``, ``label``, ``topK`` such as ``top3``, or ``probabilities+explanation``.

        >>> OutputFormat.parse("top3")
        OutputFormat(kind='top-k', k=3)
        """
        if text == "probabilities":
            return cls()
        if text == "label":
            return cls("label")
        if text == EXPLAINED:
            return cls(EXPLAINED)
        match = re.fullmatch(r"top-?(\d+)", text)
        if not match:
            raise OptionError(f"output '{text}': expected probabilities, label, or topK such as top3; or {EXPLAINED}")
        require(int(match[1]) >= 1, f"output '{text}': expected at least one class, such as top1")
        return cls("top-k", int(match[1]))

    def __str__(self) -> str:
        return f"top{self.k}" if self.kind == "top-k" else self.kind

    def apply(self, rows: Tensor) -> Tensor:
        """Blank what is not served: [N, K] -> [N, K], tails at zero for top-k, one-hot for labels."""
        if self.kind == "label":
            return F.one_hot(rows.argmax(dim=1), rows.shape[1]).to(rows.dtype)
        if self.kind == "top-k":
            require(
                self.k is not None and self.k <= rows.shape[1],
                f"output {self}: the victim has {rows.shape[1]} classes; expected k of at most {rows.shape[1]}",
            )
            first = rows.sort(dim=1, descending=True, stable=True).indices[:, : self.k]  # topk breaks ties at random
            return torch.zeros_like(rows).scatter_(1, first, rows.gather(1, first))
        return rows


@dataclass(frozen=True)
class Answers:
    """Answers to N inputs.

    Attributes:
        kind: what the victim serves.
        values: float32 [N, K]. Whole rows of probabilities; for top-k the served ones, zero elsewhere, so that a row
            may sum to less than one; for labels one-hot rows.
        explanations: float32 [N, C, H, W], gradient of the largest probability in the pixels, where the kind says so.
    """

    kind: OutputKind
    values: Tensor
    explanations: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def labels(self) -> Tensor:
        """Served top-1, int64 [N]."""
        return self.values.argmax(dim=1)

    def targets(self) -> Tensor:
        """Rows to train on, float32 [N, K], each summing to one; what top-k hides counts as zero.

        >>> Answers("top-k", torch.tensor([[0.6, 0.2, 0.0]])).targets()
        tensor([[0.7500, 0.2500, 0.0000]])
        """
        return self.values / self.values.sum(dim=1, keepdim=True)

    def __getitem__(self, rows: slice | Tensor) -> Answers:
        return Answers(self.kind, self.values[rows], None if self.explanations is None else self.explanations[rows])

    @staticmethod
    def join(parts: list[Answers]) -> Answers:
        """Answers to several batches as one."""
        explained = [part.explanations for part in parts if part.explanations is not None]
        return Answers(
            parts[0].kind, torch.cat([part.values for part in parts]), torch.cat(explained) if explained else None
        )
