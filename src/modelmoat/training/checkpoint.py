"""What an interrupted training needs to go on: weights, optimizer state and where it stood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from modelmoat.core.errors import RunError
from modelmoat.core.files import atomic_path

_NETWORK = "network."
_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class Trained:
    """A network that a training changes, and the optimizer that changes it, if it has its own."""

    network: nn.Module
    optimizer: torch.optim.Optimizer | None = None


def save_checkpoint(path: Path, parts: Mapping[str, Trained], *, epoch: int, fingerprint: str) -> None:
    """Write a checkpoint after ``epoch`` whole epochs; ``fingerprint`` names the training it belongs to."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        tensors |= {f"{name}{key}": value.detach().cpu().contiguous() for key, value in state_of(part).items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"epoch": str(epoch), "fingerprint": fingerprint}))


def load_checkpoint(path: Path, parts: Mapping[str, Trained], *, fingerprint: str) -> int:
    """Restore a checkpoint and return how many epochs it has behind it; 0 where there is none.

    Raises:
        RunError: the file is damaged or belongs to another training.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{path} is not a readable checkpoint ({error}); fix: delete it to train from the start"
        ) from error
    if metadata.get("fingerprint") != fingerprint:
        raise RunError(
            f"{path} belongs to a training with other settings or data ({json.dumps(metadata.get('fingerprint'))}, "
            f"this one is {json.dumps(fingerprint)}); fix: use another folder, or delete it to train from the start"
        )
    for name, part in parts.items():
        part.network.load_state_dict(_under(f"{name}{_NETWORK}", tensors))
        if part.optimizer:
            _restore_optimizer(part.optimizer, _under(f"{name}{_OPTIMIZER}", tensors))
    return int(metadata["epoch"])


def state_of(part: Trained) -> dict[str, Tensor]:
    """Every tensor that the training changes, by name: those of the network and those of its optimizer."""
    tensors = {f"{_NETWORK}{key}": value for key, value in part.network.state_dict().items()}
    states = part.optimizer.state_dict()["state"] if part.optimizer else {}
    for index, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}.{key}"] = value
    return tensors


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` in the memory order of its parameter: fused optimizers walk both by address, not by index."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
