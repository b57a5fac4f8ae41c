"""A command for every method, on embedded data and the victim of "Getting started"."""

from __future__ import annotations

from modelmoat.leaderboard.methods import MethodPage

VICTIM = "victims/digits"
_DATA = "digits,pool=0.4"
_ASSESS = f"modelmoat assess {VICTIM} --pool {_DATA},split=pool --budget 300"
_ATTACK_OPTIONS = {"megex": " --output probabilities+explanation", "zsdb3kd": " --output label"}
_PARAMETERS = {"jb_top3": ":seeds=100", "jbda_tr": ":seeds=100"}
"""Where defaults want a larger pool than the one here."""
_FACED = {"queen_inverse": "queen", "majority_vote": "queen", "averaging": "random_noise:repeats=fresh"}
"""The defense that a recovery is meant for, where it is not any that changes probabilities."""


def example(method: MethodPage) -> str:
    """Commands that use a method at its defaults; lines are continued by a backslash."""
    return {"attack": _attack, "recovery": _recovery, "defense": _defense, "recipe": _recipe}[method.family](method)


def _attack(method: MethodPage) -> str:
    output, parameters = _ATTACK_OPTIONS.get(method.name, ""), _PARAMETERS.get(method.name, "")
    return f"{_ASSESS}{output} \\\n  --attack {method.name}{parameters} --out runs/{method.name}"


def _recovery(method: MethodPage) -> str:
    defense = _FACED.get(method.name, "reverse_sigmoid")
    return f"{_ASSESS} \\\n  --attack knockoff+{method.name} --defense {defense} --out runs/{method.name}"


def _defense(method: MethodPage) -> str:
    attack = f"{_ASSESS} \\\n  --defense {method.name} --suite quick --out runs/{method.name}"
    if dict(method.facts)["Calibration turns"] == "nothing":
        return attack
    folder = f"{VICTIM}-{method.name}"
    fitted = f"modelmoat protect {VICTIM} --defense {method.name} --max-l1 0.5 \\\n  --out {folder}"
    return f"{attack}\n\n# as strong as users can bear\n{fitted}"


def _recipe(method: MethodPage) -> str:
    return (
        f"modelmoat train {method.name} --data {_DATA} --arch small_cnn --epochs 15 \\\n  --out {VICTIM}-{method.name}"
    )
