"""Short hashes that tell one model from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from modelmoat.core.errors import ModelError

_LENGTH = 16


def bytes_digest(data: bytes) -> str:
    """First 16 hex digits of the SHA-256.

    >>> bytes_digest(b"")
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()[:_LENGTH]


def files_digest(paths: Iterable[Path]) -> str:
    """First 16 hex digits of the SHA-256 of the files' bytes, in order; raises `ModelError` for an unreadable file."""
    total = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    total.update(piece)
        except OSError as error:
            raise unreadable(path, error) from error
    return total.hexdigest()[:_LENGTH]


def state_digest(network: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over names, types, shapes and bytes of all weights and buffers."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        if isinstance(value, Tensor) and not value.is_quantized:
            flat = value.detach().cpu().contiguous().reshape(-1)
            total.update(f"{value.dtype}{tuple(value.shape)}".encode())
            total.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            total.update(repr(value).encode())
    return total.hexdigest()[:_LENGTH]


def unreadable(path: Path, error: OSError) -> ModelError:
    """The error for a file of a model that cannot be read."""
    return ModelError(
        f"cannot read {path}: {error.strerror or error}; fix: check that the file is there and yours to read"
    )
