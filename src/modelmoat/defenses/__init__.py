"""Defenses at inference time: one published method, one file."""

from modelmoat.defenses.base import DEFENSES, Defense, Preparation, create_defense
from modelmoat.defenses.chain import Chain, StepCost, parse_defense
from modelmoat.defenses.prepared import PreparableDefense, PreparedModule, saved_state

__all__ = [
    "DEFENSES",
    "Chain",
    "Defense",
    "PreparableDefense",
    "Preparation",
    "PreparedModule",
    "StepCost",
    "create_defense",
    "parse_defense",
    "saved_state",
]
