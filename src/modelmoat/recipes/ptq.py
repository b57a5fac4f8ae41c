"""Post-training quantization: the row that quantization-aware training is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modelmoat.models import Classifier
from modelmoat.quantization import Simulated
from modelmoat.recipes._quantized import QuantizedRecipe
from modelmoat.recipes.base import RECIPES, TrainingJob


@RECIPES.register("ptq")
@dataclass(frozen=True, kw_only=True, repr=False)
class PTQ(QuantizedRecipe):
    """Rounds a trained network to int8, with ranges of activations and corrections of biases measured on training images."""

    paper: ClassVar[str] = (
        "Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, "
        "CVPR 2018"
    )
    float32_part: ClassVar[str] = ""

    def tune(self, simulated: Simulated, network: Classifier, job: TrainingJob) -> None:
        """Correct its biases; nothing is trained."""
        del network
        simulated.correct_biases(job.splits.train, self.calibration_rows(job))
