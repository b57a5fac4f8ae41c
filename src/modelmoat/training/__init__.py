"""One fit loop over images that are already in memory."""

from modelmoat.training.augment import augment_batch, resolve_augment
from modelmoat.training.checkpoint import Trained
from modelmoat.training.distributed import ALONE, ProcessLost, World, launched
from modelmoat.training.fit import (
    LOSS,
    Backward,
    FitResult,
    Objective,
    Progress,
    Terms,
    TrainingDiverged,
    cross_entropy,
    fit,
    make_optimizer,
    sum_backward,
)
from modelmoat.training.inference import accuracy, predict_logits, predict_top1
from modelmoat.training.precision import PRECISIONS, resolve_precision
from modelmoat.training.settings import FitSettings
from modelmoat.training.sources import Images, TensorImages, as_float, as_images
from modelmoat.training.statistics import pixel_statistics

__all__ = [
    "ALONE",
    "LOSS",
    "PRECISIONS",
    "Backward",
    "FitResult",
    "FitSettings",
    "Images",
    "Objective",
    "ProcessLost",
    "Progress",
    "TensorImages",
    "Terms",
    "Trained",
    "TrainingDiverged",
    "World",
    "accuracy",
    "as_float",
    "as_images",
    "augment_batch",
    "cross_entropy",
    "fit",
    "launched",
    "make_optimizer",
    "pixel_statistics",
    "predict_logits",
    "predict_top1",
    "resolve_augment",
    "resolve_precision",
    "sum_backward",
]
