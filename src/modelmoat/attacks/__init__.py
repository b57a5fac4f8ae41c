"""Model-extraction attacks: one published method, one file."""

from modelmoat.attacks.base import ATTACKS, Attack, create_attack, parse_attack
from modelmoat.attacks.thief import Theft, Thief

__all__ = ["ATTACKS", "Attack", "Theft", "Thief", "create_attack", "parse_attack"]
