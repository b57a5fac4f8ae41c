"""What to assess, as a value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from modelmoat.assessment.subject import SubjectSpec
from modelmoat.assessment.suites import Suite, find_suite
from modelmoat.attacks import Attack
from modelmoat.attacks.thief import CLONE_FIT
from modelmoat.core.errors import OptionError, require
from modelmoat.defenses import Defense
from modelmoat.training import FitSettings
from modelmoat.training.evasion import Evasion
from modelmoat.victims import OutputFormat

LARGEST_SEED = 2**63 - 1  # a column of int64 holds it


@dataclass(frozen=True, kw_only=True)
class AssessmentSpec:
    """One assessment: every (defense, attack, budget, seed) gives one record.

    Attributes:
        victim: reference of the model.
        data: reference of the victim's data; None for the one that it was trained on.
        data_seed: seed of the victim's splits; None for the one that it was trained with.
        pool: reference of the attacker's inputs.
        attacks: who attacks.
        suite: name of a fixed set of attackers that attack too; those that do not fit the victim or the pool stay out.
        defenses: what defends; each alone.
        bracketed: whether the undefended model and the one that serves labels alone are attacked too: the ceiling and the
            floor between which a defense lies.
        accounts: accounts from which each attacker asks, in turns.
        benign_share: share of all traffic that is benign users' (images of the victim's validation split).
        budgets: queries allowed.
        seeds: of the attacker's random draws.
        output: what an answer looks like.
        clone_arch: architecture of clones; None for the victim's, where that is a registered one.
        clone_init: weights that clones start from; None for random ones.
        clone_fit: how clones are trained.
        device: where victim and clones run.
        drop_overlap: leave out pool images that are in the victim's data instead of refusing the pool.
        keep_clones: write every clone as an artifact.
        allow_pickle: load pickled models.
        price_per_1000: price of 1,000 queries, for the report.
        target_fidelity: what a defense should hold clones under, for the report.
        robust: evasion attack by which the adversarial robustness of victim and clones is measured; None for not at all.
        robust_images: most test images that are attacked.
    """

    victim: str
    pool: str
    data: str | None = None
    data_seed: int | None = None
    attacks: tuple[Attack, ...]
    defenses: tuple[Defense, ...]
    budgets: tuple[int, ...]
    suite: str | None = None
    bracketed: bool = False
    accounts: int = 1
    benign_share: float = 0.0
    seeds: tuple[int, ...] = (0,)
    output: OutputFormat = field(default_factory=OutputFormat)
    clone_arch: str | None = None
    clone_init: str | None = None
    clone_fit: FitSettings = CLONE_FIT
    device: str = "cpu"
    drop_overlap: bool = False
    keep_clones: bool = False
    allow_pickle: bool = False
    price_per_1000: float = 1.0
    target_fidelity: float = 0.7
    robust: Evasion | None = None
    robust_images: int = 1000

    def __post_init__(self) -> None:
        require(bool(self.attacks) or self.suite is not None, "no attack given; fix: --attack knockoff")
        require(self.accounts >= 1, f"accounts={self.accounts}: expected at least 1")
        require(
            0 <= self.benign_share < 1, f"benign_share={self.benign_share}: expected a share in [0, 1), such as 0.5"
        )
        self.found_suite  # noqa: B018 - refuses an unknown name
        require(bool(self.defenses), "no defense given; fix: --defense none")
        require(
            bool(self.budgets) and min(self.budgets) >= 1, f"budgets {self.budgets}: expected at least one of 1 or more"
        )
        require(
            bool(self.seeds) and min(self.seeds) >= 0 and max(self.seeds) <= LARGEST_SEED,
            f"seeds {self.seeds}: expected at least one, each from 0 to {LARGEST_SEED}",
        )
        require(
            self.price_per_1000 >= 0 and math.isfinite(self.price_per_1000),
            f"price_per_1000={self.price_per_1000}: expected a number of 0 or more",
        )
        require(0 < self.target_fidelity <= 1, f"target_fidelity={self.target_fidelity}: expected a share in (0, 1]")
        require(self.robust_images >= 1, f"robust_images={self.robust_images}: expected at least 1")
        for attack in self.attacks:
            if self.output.kind not in attack.outputs:
                possible = ", ".join(sorted(attack.outputs))
                raise OptionError(
                    f"attack '{attack.spec}' cannot use answers of kind '{self.output}'; it can use {possible}"
                )

    @property
    def found_suite(self) -> Suite | None:
        """The suite, if there is one; raises `UnknownReference` for a name that is none."""
        return None if self.suite is None else find_suite(self.suite)

    @property
    def attackers(self) -> tuple[Attack, ...]:
        """All that were asked for by name, each once, and after each the one that belongs beside it."""
        asked = [one for attack in self.attacks for one in (attack, attack.beside()) if one]
        return tuple(dict.fromkeys(asked))

    def subject(self) -> SubjectSpec:
        """The victim, as it is named here."""
        return SubjectSpec(
            victim=self.victim,
            data=self.data,
            data_seed=self.data_seed,
            allow_pickle=self.allow_pickle,
            device=self.device,
        )

    def described(self) -> dict[str, Any]:
        """The whole specification as JSON values, for ``run.json``."""
        return {
            "victim": self.victim,
            "data": self.data,
            "data_seed": self.data_seed,
            "pool": self.pool,
            "drop_overlap": self.drop_overlap,
            "robust": None,
            "clone_init": None,
            "suite": str(self.found_suite) if self.suite else None,
            "accounts": 1,
            "benign_share": 0.0,
            **self.setting(),
            "attacks": [attack.spec for attack in self.attackers],
            "defenses": [defense.spec for defense in self.defenses],
            "budgets": list(self.budgets),
            "seeds": list(self.seeds),
        }

    def setting(self) -> dict[str, Any]:
        """What all records of one folder share beside the hashes of victim, test images and pool."""
        return {
            "output": str(self.output),
            "clone_arch": self.clone_arch,
            "clone_fit": asdict(self.clone_fit),
            "device": self.device,
            **({"clone_init": self.clone_init} if self.clone_init else {}),
            **({"accounts": self.accounts} if self.accounts > 1 else {}),
            **({"benign_share": self.benign_share} if self.benign_share else {}),
            **({"robust": f"{self.robust.spec} on {self.robust_images} images"} if self.robust else {}),
        }
