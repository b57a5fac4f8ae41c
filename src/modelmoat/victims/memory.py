"""Undefended answers that are kept, so that a batch which several attackers send is computed once."""

from __future__ import annotations

import hashlib

from torch import Tensor

from modelmoat.models import Predictor
from modelmoat.victims.clean import CleanAnswers, clean_answers
from modelmoat.victims.hashing import Keys

_MIB = 1 << 20


class BatchMemory:
    """Clean answers by batch: whole batches only, since the last bits of a row can depend on the rows beside it.

    Nothing is forgotten; what comes after ``memory_mb`` is full is computed every time. Queries count as ever.

    Args:
        memory_mb: of kept answers.
    """

    def __init__(self, memory_mb: float = 256) -> None:
        self._left = int(memory_mb * _MIB)
        self._kept: dict[bytes, tuple[Tensor, Tensor | None]] = {}

    def ask(self, predictor: Predictor, inputs: Tensor, keys: Keys, account: str) -> CleanAnswers:
        """Answers to inputs [N, C, H, W] of the given keys; as `clean_answers` gives them."""
        batch = hashlib.blake2b(predictor.digest.encode() + keys.tobytes(), digest_size=16).digest()
        if batch in self._kept:
            probabilities, logits = self._kept[batch]
            return CleanAnswers(probabilities, inputs, account, logits)
        clean = clean_answers(predictor, inputs, account)
        size = sum(rows.nbytes for rows in (clean.probabilities, clean.logits) if rows is not None)
        if size <= self._left:
            self._left -= size
            self._kept[batch] = (clean.probabilities, clean.logits)
        return clean
