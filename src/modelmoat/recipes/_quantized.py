"""What recipes for int8 victims share: a float32 start, calibration, and the converted artifact."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from modelmoat.core.errors import DataError, ModelError, require
from modelmoat.core.seeds import generator
from modelmoat.metrics import top1_accuracy
from modelmoat.models import Classifier, ModelCard, load_artifact, load_card
from modelmoat.models.artifact import write_artifact
from modelmoat.models.packages import import_extra
from modelmoat.quantization import Bits, Simulated, deploy, predict_scores
from modelmoat.recipes.base import Recipe, TrainingJob
from modelmoat.training import FitResult

_BATCH = 128
_PACKAGES = ("torchao.quantization.pt2e", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class QuantizedFit(FitResult):
    """A training and the network that came of it, which is not the one that it started from."""

    simulated: Simulated | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class QuantizedRecipe(Recipe):
    """A recipe whose victim answers in int8.

    Parameters:
        start: folder of a trained float32 victim to start from; without it, one is trained first, by the standard recipe.
        weight_bits: 2 to 8; fewer bits are coarser weights, each still stored in a byte.
        per_channel: one scale per output channel rather than per layer.
        reduce_range: keep weights within 63, which CPUs without VNNI need to add up products without overflow.
        calibration_images: training images that set the ranges of activations.
    """

    start: str | None = None
    weight_bits: int = 8
    per_channel: bool = True
    reduce_range: bool = True
    calibration_images: int = 1024

    float32_part: ClassVar[str] = "float32"  # names the files of the first training, where another follows

    def __post_init__(self) -> None:
        require(2 <= self.weight_bits <= 8, f"{self.name}:weight_bits={self.weight_bits}: expected 2 to 8")
        require(
            self.calibration_images >= 1,
            f"{self.name}:calibration_images={self.calibration_images}: expected at least 1, such as 1024",
        )

    @property
    def bits(self) -> Bits:
        """The integer grids."""
        return Bits(weights=self.weight_bits, per_channel=self.per_channel, reduce_range=self.reduce_range)

    def start_digest(self) -> dict[str, str]:
        """Hash of the weights to start from."""
        return {"start": load_card(Path(self.start).expanduser()).weights_digest} if self.start else {}

    def train(self, network: Classifier, job: TrainingJob) -> QuantizedFit:
        """Train or load the float32 network, calibrate its simulated form, and tune that."""
        for package in _PACKAGES:
            import_extra(package, extra="quantize", reference=self.spec)
        result = self._float32(network, job)
        simulated = Simulated(network, self.bits).to(job.device)
        simulated.calibrate(job.splits.train, self.calibration_rows(job))
        tuned = self.tune(simulated, network, job) or result
        return QuantizedFit(**vars(tuned), simulated=simulated)

    @abstractmethod
    def tune(self, simulated: Simulated, network: Classifier, job: TrainingJob) -> FitResult | None:
        """Train the calibrated simulated network in place; ``network`` is its float32 original. None where it stays."""

    def finish(self, network: Classifier, result: FitResult, job: TrainingJob, card: ModelCard) -> ModelCard:
        """Convert, measure the converted network, and write it beside the tensors that it was converted from."""
        simulated = result.simulated if isinstance(result, QuantizedFit) else None
        if simulated is None:
            raise ModelError(f"{self.spec} made no simulated network")
        splits = job.splits
        quantization, predictor = deploy(job.directory, simulated, network, splits.validation, splits.train.class_names)
        metrics = {
            "validation_accuracy": top1_accuracy(
                predict_scores(predictor, splits.validation), splits.validation.labels
            ),
            "test_accuracy": top1_accuracy(predict_scores(predictor, splits.test), splits.test.labels),
        }
        card = card.model_copy(update={"metrics": metrics, "quantization": quantization})
        return write_artifact(job.directory, simulated.state_dict(), card)

    def _float32(self, network: Classifier, job: TrainingJob) -> FitResult:
        if self.start is None:
            return job.fit_network(self, network, part=self.float32_part)
        trained, card = load_artifact(Path(self.start).expanduser())
        _check_start(self, card, job)
        network.load_state_dict(trained.state_dict())
        network.to(job.device).eval()
        return FitResult(0, 0, "float32")

    def calibration_rows(self, job: TrainingJob) -> list[torch.Tensor]:
        """Batches of rows of the training images that ranges are measured on."""
        order = torch.randperm(len(job.splits.train), generator=generator(job.seed, "calibration"))
        return list(order[: self.calibration_images].split(_BATCH))


def _check_start(recipe: QuantizedRecipe, card: ModelCard, job: TrainingJob) -> None:
    """Refuse a start of another form, or one that has seen the images which this training is judged on."""
    where = f"{recipe.name}:start={recipe.start}"
    if card.arch != job.arch:
        raise ModelError(f"{where} is a {card.arch}, not a {job.arch}; fix: --arch {card.arch}")
    if card.data_digests.get("train") != job.splits.train.digest:
        raise DataError(
            f"{where} was trained on {card.data} (seed {card.data_seed}), not on the training images of {job.data} (seed "
            f"{job.data_seed}); fix: --data {card.data} --data-seed {card.data_seed}"
        )


def tuning(job: TrainingJob, *, epochs: int, lr: float) -> TrainingJob:
    """The same job with the settings of a short training at a low rate, in float32: bfloat16 is coarser than int8."""
    fit = replace(job.fit, epochs=epochs, min_steps=0, lr=lr, warmup=0.0, precision="float32")
    return replace(job, fit=fit)
