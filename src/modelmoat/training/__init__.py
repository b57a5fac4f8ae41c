"""One fit loop over images that are already in memory."""

from modelmoat.training.fit import FitResult, Progress, TrainingDiverged, fit
from modelmoat.training.inference import accuracy, predict_logits, predict_top1
from modelmoat.training.precision import PRECISIONS, resolve_precision
from modelmoat.training.settings import FitSettings
from modelmoat.training.sources import Images, TensorImages, as_float, as_images
from modelmoat.training.statistics import pixel_statistics

__all__ = [
    "PRECISIONS",
    "FitResult",
    "FitSettings",
    "Images",
    "Progress",
    "TensorImages",
    "TrainingDiverged",
    "accuracy",
    "as_float",
    "as_images",
    "fit",
    "pixel_statistics",
    "predict_logits",
    "predict_top1",
    "resolve_precision",
]
