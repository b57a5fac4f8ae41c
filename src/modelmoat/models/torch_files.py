"""Model files that torch writes, all of which may run code when they are opened."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from modelmoat.core.errors import ModelError
from modelmoat.models.digests import files_digest
from modelmoat.models.request import Request, first_line
from modelmoat.models.torch_predictor import ExportedPredictor, TorchPredictor


def load_exported(path: Path, request: Request) -> ExportedPredictor:
    """A program saved by ``torch.export.save``.

    ``torch.export.load`` unpickles some of the constants and weights that the archive may hold, and says itself that
    it is not for untrusted files, so the file is refused unless ``allow_pickle``.

    Raises:
        ModelError: pickles are not allowed, or the file is no exported program for images.
    """
    reference = request.reference
    _require_consent(path, request)
    log = logging.getLogger("torch.export")
    before = log.level
    log.setLevel(logging.CRITICAL)  # the error that follows says it
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"'{reference}' is not a program of torch.export: {type(error).__name__}: {first_line(error)}; fix: "
            "export it again"
        ) from error
    finally:
        log.setLevel(before)
    return ExportedPredictor(program, request, digest=files_digest([path]))


def load_pickled(path: Path, request: Request) -> TorchPredictor:
    """A whole nn.Module saved by ``torch.save``.

    Raises:
        ModelError: pickles are not allowed, the file cannot be opened, or it holds no nn.Module.
    """
    reference = request.reference
    _require_consent(path, request)
    try:
        made = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(
            f"'{reference}' cannot be opened by torch.load: {type(error).__name__}: {first_line(error)}; "
            "fix: make the classes that it names importable, or save it again"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(_not_a_module(made, reference))
    return TorchPredictor(
        made,
        reference=reference,
        digest=files_digest([path]),
        input_shape=request.input_shape,
        outputs=request.outputs,
        device=request.device,
    )


def _require_consent(path: Path, request: Request) -> None:
    if not request.allow_pickle:
        raise ModelError(
            f"'{request.reference}' is a {path.suffix} file, which can run any code when it is opened, so it is "
            "refused; fix: give an artifact folder or an ONNX file, or pass --allow-pickle if you trust where it came "
            "from"
        )


def _not_a_module(made: object, reference: str) -> str:
    if isinstance(made, dict):
        return (
            f"'{reference}' holds a state dict ({len(made)} entries), which needs an architecture; fix: write a "
            "function that builds the network and loads it, and give python:module:function"
        )
    return f"'{reference}' holds {type(made).__name__}, not an nn.Module; fix: save the whole module with torch.save"
