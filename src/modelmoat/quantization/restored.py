"""From a predictor of an int8 victim to a network that can be looked into."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from modelmoat.models import Predictor
from modelmoat.models.onnx_predictor import OnnxPredictor
from modelmoat.quantization.simulated import Simulated, restore_simulated

_RESTORED: WeakKeyDictionary[OnnxPredictor, Simulated] = WeakKeyDictionary()


def simulated_form(predictor: Predictor) -> Simulated | None:
    """The network of an int8 victim as it was before conversion, with features and gradients; None for any other model.

    It is restored at the first call and shared by all later ones for the same predictor: never change it. It is on the
    CPU, like the graph that answers.

    Raises:
        ModelError: damaged files, or no torchao.
    """
    if not isinstance(predictor, OnnxPredictor) or predictor.artifact is None:
        return None
    if predictor not in _RESTORED:
        _RESTORED[predictor] = restore_simulated(predictor.artifact)
    return _RESTORED[predictor]
