"""Numbers about answers, clones and seeds."""

from modelmoat.metrics.answers import agreement, calibration_error, l1_distances, top1_accuracy

__all__ = ["agreement", "calibration_error", "l1_distances", "top1_accuracy"]
