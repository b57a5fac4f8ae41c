"""Victim x attack x budget: from a specification to records."""

from modelmoat.assessment.run import Observer, assess
from modelmoat.assessment.scene import Scene, set_scene
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.utility import Evaluation, evaluate, evaluate_theft, measure_utility

__all__ = [
    "AssessmentSpec",
    "Evaluation",
    "Observer",
    "Scene",
    "assess",
    "evaluate",
    "evaluate_theft",
    "measure_utility",
    "set_scene",
]
