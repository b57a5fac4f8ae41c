"""Int8 networks: simulated while they train, converted when they are served (torchao's PT2E flow)."""

from modelmoat.quantization.bits import Bits
from modelmoat.quantization.deployment import deploy, predict_scores
from modelmoat.quantization.restored import simulated_form
from modelmoat.quantization.simulated import Simulated, restore_simulated

__all__ = ["Bits", "Simulated", "deploy", "predict_scores", "restore_simulated", "simulated_form"]
