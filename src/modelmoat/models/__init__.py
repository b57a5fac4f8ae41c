"""Networks: architectures, artifacts on disk, and loaders for everything that answers as a model."""

from modelmoat.models.architectures import (
    ArchInfo,
    arch_infos,
    arch_names,
    create_network,
    get_arch,
    register_arch,
)
from modelmoat.models.artifact import ModelCard, load_artifact, load_card, save_model
from modelmoat.models.digests import state_digest
from modelmoat.models.loading import load_model
from modelmoat.models.network import Classifier, Network
from modelmoat.models.onnx_predictor import origin_of_file
from modelmoat.models.origin import Origin
from modelmoat.models.outputs import OutputKind, check_outputs
from modelmoat.models.predictor import Predictor
from modelmoat.models.start import Start, load_start
from modelmoat.models.torch_predictor import TorchPredictor

__all__ = [
    "ArchInfo",
    "Classifier",
    "ModelCard",
    "Network",
    "Origin",
    "OutputKind",
    "Predictor",
    "Start",
    "TorchPredictor",
    "arch_infos",
    "arch_names",
    "check_outputs",
    "create_network",
    "get_arch",
    "load_artifact",
    "load_card",
    "load_model",
    "load_start",
    "origin_of_file",
    "register_arch",
    "save_model",
    "state_digest",
]
