"""Defenses that hold tensors or networks: prepared once, saved as plain tensors, restored without training."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from modelmoat.core.errors import ModelError
from modelmoat.defenses._checks import checked
from modelmoat.defenses.base import Defense, Preparation
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers, Responder

FACTS = "_extra_state"  # where torch keeps what is not a parameter or a buffer
_MOST_ROWS = 1024
_MOST_VALUES = 1 << 22
_CACHED_VALUES = 1 << 18  # of inputs to a CPU: the activations of a batch should stay in its caches


class PreparedModule(nn.Module):
    """A ready defense as a module: tensors in ``state_dict``, the rest as JSON in one uint8 tensor beside them.

    A subclass implements ``forward(probabilities, inputs)`` in plain tensor code: served rows of float32 rows [N, K] and
    inputs [N, C, H, W]. Inputs reach it on the module's device; where it holds a network, in batches whose activations
    fit in memory.

    Args:
        method: the defense and its parameters.
        predictor: the victim that it answers for.
    """

    _place: Tensor

    def __init__(self, method: Defense, predictor: Predictor) -> None:
        super().__init__()
        self.method = method
        self.victim = predictor.digest
        self.num_classes = predictor.num_classes
        self.register_buffer("_place", torch.empty(0), persistent=False)  # where this module is

    @property
    def spec(self) -> str:
        """How the defense is written on the command line."""
        return self.method.spec

    @property
    def stateful(self) -> bool:
        """Whether an answer depends on earlier queries."""
        return self.method.stateful

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Served rows, float32 [N, K], on the simplex; raises as `checked` does."""
        clean = checked(clean, self.spec, num_classes=self.num_classes)
        where, here = clean.probabilities.device, self._place.device
        size = len(clean.inputs) if next(self.parameters(), None) is None else _batch_size(clean.inputs, here)
        with torch.no_grad():
            served = [
                self.forward(y.to(here), _arranged(x.to(here, torch.float32))).to(where)
                for y, x in zip(clean.probabilities.split(size), clean.inputs.split(size), strict=True)
            ]
        return torch.cat(served) if len(served) > 1 else served[0]

    def ready(self, device: str) -> Self:
        """Frozen, in eval mode, on ``device`` and channels last, as everywhere."""
        self.to(device).eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def facts(self) -> dict[str, Any]:
        """JSON values that are saved beside the tensors; what `PreparableDefense.skeleton` needs."""
        return {}

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Take over saved facts, where they are more than the skeleton was built from."""

    def get_extra_state(self) -> Tensor:
        """All facts as UTF-8 bytes."""
        own = {"spec": self.spec, "victim": self.victim, "classes": self.num_classes}
        return _as_bytes({**self.facts(), **own})

    def set_extra_state(self, state: Tensor) -> None:
        """Check that the state is of this defense and victim, then take over its facts."""
        facts = read_facts({FACTS: state}, self.spec)
        _check_facts(facts, self.spec, self.victim, self.num_classes)
        self.adopt(facts)


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparableDefense(Defense):
    """A defense that must be prepared: :meth:`prepare` gives a `PreparedModule`, :meth:`restore` the same one later."""

    @abstractmethod
    def skeleton(self, predictor: Predictor, facts: Mapping[str, Any]) -> PreparedModule:
        """The module with tensors of the right shapes and any values, from what :meth:`PreparedModule.facts` said."""

    @abstractmethod
    def prepare(self, preparation: Preparation) -> PreparedModule:
        """The ready defense."""

    def restore(self, predictor: Predictor, tensors: Mapping[str, Tensor], *, device: str = "cpu") -> PreparedModule:
        """The ready defense as it was when ``tensors`` were saved; nothing is trained and no images are needed.

        Raises:
            ModelError: tensors of another defense, of other parameters or of another victim, or tensors missing.
        """
        return restore_module(self, self.skeleton, predictor, tensors, device)


def restore_module(
    method: Defense,
    skeleton: Callable[[Predictor, Mapping[str, Any]], PreparedModule],
    predictor: Predictor,
    tensors: Mapping[str, Tensor],
    device: str,
) -> PreparedModule:
    """Build the skeleton from saved facts and load the tensors into it; raises `ModelError` where they do not fit."""
    facts = read_facts(tensors, method.spec)
    _check_facts(facts, method.spec, predictor.digest, predictor.num_classes)
    module = skeleton(predictor, facts)
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ModelError(
            f"saved state does not fit defense '{method.spec}': {detail}; fix: prepare it again"
        ) from error
    return module.ready(device)


def saved_state(responder: Responder) -> dict[str, Tensor]:
    """All that a ready defense must be given back by `Defense.restore`, fit for a safetensors file.

    Empty for methods that keep nothing.

    Raises:
        ModelError: a responder that is neither a method without state nor a module.

    >>> from modelmoat.defenses import parse_defense
    >>> saved_state(parse_defense("rounding"))
    {}
    """
    if isinstance(responder, Defense):
        return {}
    if not isinstance(responder, nn.Module):
        raise ModelError(
            f"defense '{responder.spec}' cannot be saved: {type(responder).__name__} keeps its state outside of tensors; "
            "fix: make it a PreparedModule"
        )
    tensors = responder.state_dict().items()
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors}


def renamed_state(tensors: Mapping[str, Tensor], spec: str) -> dict[str, Tensor]:
    """Saved tensors with another spec of the same defense written into them; raises `ModelError` as `read_facts` does."""
    if not tensors:
        return {}
    return {**tensors, FACTS: _as_bytes({**read_facts(tensors, spec), "spec": spec})}


def read_facts(tensors: Mapping[str, Tensor], spec: str) -> dict[str, Any]:
    """The JSON values saved beside tensors; raises `ModelError` where there are none."""
    try:
        facts = json.loads(bytes(tensors[FACTS].cpu().numpy()))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"these {len(tensors)} tensors are no saved state of a defense (no readable '{FACTS}'); "
            f"fix: prepare '{spec}' again and keep all of saved_state()"
        ) from error
    if not isinstance(facts, dict):
        raise ModelError(f"'{FACTS}' holds {type(facts).__name__}, expected a JSON object; fix: prepare '{spec}' again")
    return facts


def _as_bytes(facts: Mapping[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(facts, sort_keys=True).encode()), dtype=torch.uint8)


def _check_facts(facts: Mapping[str, Any], spec: str, victim: str, num_classes: int) -> None:
    expected = {"spec": spec, "victim": victim, "classes": num_classes}
    for name, value in expected.items():
        if facts.get(name) != value:
            words = {"spec": "defense", "victim": "victim with digest", "classes": "number of classes"}[name]
            raise ModelError(
                f"saved state is of {words} '{facts.get(name)}', not '{value}'; fix: restore it as the defense and for the "
                "victim that it was saved with, or prepare it again"
            )


def _arranged(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def _batch_size(inputs: Tensor, device: torch.device) -> int:
    """Rows at a time, about the same in every batch."""
    values = min(_MOST_VALUES, _CACHED_VALUES) if device.type == "cpu" else _MOST_VALUES
    most = max(1, min(_MOST_ROWS, values * len(inputs) // max(1, inputs.numel())))
    batches = -(-len(inputs) // most)
    return -(-len(inputs) // batches)
