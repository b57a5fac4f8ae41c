"""Victim x attack x budget: from a specification to records."""

from modelmoat.assessment.fitting import ProtectSpec, protect
from modelmoat.assessment.latency import Latency, LatencySpec, measure_latencies, time_victim
from modelmoat.assessment.protection import Protection, load_protection
from modelmoat.assessment.run import BRACKET, Kept, Observer, assess
from modelmoat.assessment.scene import Scene, set_scene
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.subject import Subject, SubjectSpec, load_subject, load_victim
from modelmoat.assessment.utility import Evaluation, evaluate, evaluate_theft, measure_utility

__all__ = [
    "BRACKET",
    "AssessmentSpec",
    "Evaluation",
    "Kept",
    "Latency",
    "LatencySpec",
    "Observer",
    "ProtectSpec",
    "Protection",
    "Scene",
    "Subject",
    "SubjectSpec",
    "assess",
    "evaluate",
    "evaluate_theft",
    "load_protection",
    "load_subject",
    "load_victim",
    "measure_latencies",
    "measure_utility",
    "protect",
    "set_scene",
    "time_victim",
]
