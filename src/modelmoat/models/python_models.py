"""Models that Python code builds: ``python:module:function`` and ``timm:NAME``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from modelmoat.core.errors import ModelError, UnknownReference, nearest
from modelmoat.models.digests import files_digest
from modelmoat.models.packages import import_extra
from modelmoat.models.predictor import BatchedPredictor
from modelmoat.models.request import Request, agreed_shape
from modelmoat.models.torch_predictor import CallablePredictor, TorchPredictor


class Normalized(nn.Module):
    """A network that expects normalized images, for images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of images [N, C, H, W] in [0, 1]."""
        logits: Tensor = self.body((images - self.mean) / self.std)
        return logits


def load_python(place: str, request: Request) -> BatchedPredictor:
    """The model that ``function()`` of ``module`` returns: an nn.Module, or a function of images [N, C, H, W].

    The current directory is importable. A module is identified by its weights, a plain function by its source file.

    Raises:
        UnknownReference: there is no such module or function.
        ModelError: importing or calling it fails, or it returns something else.
    """
    reference = request.reference
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise UnknownReference(f"model '{reference}': write python:module:function, such as python:my_models:build")
    module = _import(module_name, reference)
    made = _call(module, name, reference)
    if isinstance(made, nn.Module):
        return TorchPredictor(
            made,
            reference=reference,
            input_shape=request.input_shape,
            outputs=request.outputs,
            device=request.device,
        )
    if not callable(made):
        raise ModelError(
            f"'{reference}' returned {type(made).__name__}; it must return an nn.Module or a function of images "
            "[N, C, H, W]; fix: return the model from the function"
        )
    return CallablePredictor(made, request, digest=files_digest([_source(module, reference)]), arch=name)


def load_timm(name: str, request: Request) -> TorchPredictor:
    """A pretrained model of the timm library, with the normalization that it was trained with.

    Raises:
        UnknownReference: timm has no model of that name.
        ModelError: timm is missing or broken, or the weights cannot be had.
    """
    timm = import_extra("timm", extra="timm", reference=request.reference)
    if not timm.is_model(name.partition(".")[0]):
        raise UnknownReference(
            f"timm has no model '{name}'{nearest(name, timm.list_models())}; fix: see timm.list_models()"
        )
    try:
        body = timm.create_model(name, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"timm cannot build '{name}' with pretrained weights: {type(error).__name__}: {error}; "
            "fix: check the network, or the name's tag (see timm.list_pretrained())"
        ) from error
    settings = body.pretrained_cfg
    return TorchPredictor(
        Normalized(body, settings["mean"], settings["std"]),
        reference=request.reference,
        arch=name,
        num_classes=body.num_classes,
        input_shape=agreed_shape(request.reference, tuple(settings["input_size"]), request.input_shape),
        outputs=request.outputs or "logits",
        device=request.device,
    )


def _import(name: str, reference: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            files = [path.stem for path in Path.cwd().glob("*.py")]
            raise UnknownReference(
                f"model '{reference}': no Python module '{name}' in {here} or installed{nearest(name, files)}"
            ) from error
        raise ModelError(
            f"model '{reference}': importing '{name}' fails: {type(error).__name__}: {error}; "
            f"fix: make 'import {name}' work in Python first"
        ) from error


def _call(module: ModuleType, name: str, reference: str) -> Any:
    public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    function = getattr(module, name, None)
    if function is None:
        known = ", ".join(sorted(public)) or "none"
        raise UnknownReference(
            f"model '{reference}': module '{module.__name__}' has no function '{name}'{nearest(name, public)} "
            f"Known: {known}"
        )
    if isinstance(function, nn.Module) or not callable(function):
        raise ModelError(
            f"model '{reference}': '{name}' is {type(function).__name__}, not a function; "
            "fix: write a function without arguments that returns the model"
        )
    try:
        return function()
    except Exception as error:
        raise ModelError(
            f"model '{reference}': {name}() fails: {type(error).__name__}: {error}; "
            "fix: make it return the model when called without arguments"
        ) from error


def _source(module: ModuleType, reference: str) -> Path:
    if module.__file__ is None:
        raise ModelError(
            f"model '{reference}': module '{module.__name__}' has no source file; fix: return an nn.Module"
        )
    return Path(module.__file__)
