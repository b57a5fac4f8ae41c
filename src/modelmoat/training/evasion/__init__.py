"""Evasion: small changes to images that make a network wrong, for measuring and for training robustness."""

from modelmoat.training.evasion.ball import Ball, Norm
from modelmoat.training.evasion.base import EVASIONS, Evasion, parse_evasion, require_radius
from modelmoat.training.evasion.climb import climb
from modelmoat.training.evasion.objectives import log_odds, logit_ratio

__all__ = ["EVASIONS", "Ball", "Evasion", "Norm", "climb", "log_odds", "logit_ratio", "parse_evasion", "require_radius"]
