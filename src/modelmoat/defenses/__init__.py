"""Defenses at inference time: one published method, one file."""

from modelmoat.defenses.base import DEFENSES, Defense, create_defense, parse_defense

__all__ = ["DEFENSES", "Defense", "create_defense", "parse_defense"]
