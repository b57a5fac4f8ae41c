"""Defenses at inference time: one published method, one file."""

from modelmoat.defenses.base import DEFENSES, Defense, Preparation, create_defense, parse_defense

__all__ = ["DEFENSES", "Defense", "Preparation", "create_defense", "parse_defense"]
