"""Clones that are trained once: attackers who end with the same transfer set end with the same clone."""

from __future__ import annotations

import copy
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelmoat.core.files import digest_of
from modelmoat.models import Classifier
from modelmoat.training import FitResult, Images

_ROWS = 1024

Train = Callable[[], tuple[Classifier, FitResult]]


@dataclass(frozen=True)
class Made:
    """A clone, how it was trained, and the seconds of training that were spared this time."""

    clone: Classifier
    result: FitResult
    spared: float


class CloneCache:
    """Remembers the latest clones by all that they depend on.

    Labels from an undefended victim and from behind every defense that keeps them are the same transfer set, and so are
    the answers of a defense that two attackers ask the same inputs.

    Args:
        most: clones that are kept.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[Classifier, FitResult, float]] = OrderedDict()

    def get(self, setting: Mapping[str, Any], images: Images, targets: Tensor, train: Train) -> Made:
        """The clone of a setting (JSON values), inputs [N, C, H, W] and targets; trained where it is not known."""
        key = digest_of({**setting, "transfer": transfer_digest(images, targets)})
        if key in self._kept:
            self._kept.move_to_end(key)
            clone, result, seconds = self._kept[key]
            return Made(copy.deepcopy(clone), result, seconds)
        started = time.perf_counter()
        clone, result = train()
        self._kept[key] = (copy.deepcopy(clone), result, time.perf_counter() - started)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return Made(clone, result, 0.0)


def transfer_digest(images: Images, targets: Tensor) -> str:
    """Hash of inputs and targets, in their order."""
    found = hashlib.blake2b(digest_size=16)
    found.update(f"{targets.dtype} {tuple(targets.shape)}".encode())
    found.update(targets.detach().cpu().contiguous().numpy().tobytes())
    for rows in torch.arange(len(images)).split(_ROWS):
        found.update(images.batch(rows).contiguous().numpy().tobytes())
    return found.hexdigest()
