"""What a study is made of: a victim to train, or one defended victim to attack with one seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modelmoat.assessment import AssessmentSpec, Kept, ProtectSpec, SubjectSpec, assess, load_protection, protect
from modelmoat.assessment.protection import PROTECTION_FILE
from modelmoat.assessment.suites import find_suite
from modelmoat.core.files import digest_of
from modelmoat.data import load_splits
from modelmoat.defenses import Defense, parse_defense
from modelmoat.recipes import TrainingJob, train_victim
from modelmoat.studies.study import DefensePlan, Study, VictimPlan

Tell = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and how much there is."""
RECORDS_STAGE = "records"
_GRID = ("attacks", "suite", "budgets")


@cache
def _kept() -> Kept:
    """What units that run in this process share: behind defenses that keep labels, clones of labels are the same."""
    return Kept()


@dataclass(frozen=True)
class TrainUnit:
    """One victim to train with one seed."""

    name: str
    plan: VictimPlan
    seed: int
    device: str

    @property
    def folder(self) -> Path:
        """Where its artifact goes, inside the study's folder."""
        return Path("victims", f"{self.name}-{self.seed}")

    @property
    def needs(self) -> Path | None:
        """Folder of the unit that has to be done before."""
        return None

    @property
    def makes(self) -> tuple[Path, ...]:
        """Folders that it writes to."""
        return (self.folder,)

    def __str__(self) -> str:
        return f"train {self.name}, seed {self.seed}"

    def digest(self) -> str:
        """Hash of all that the victim depends on."""
        plan = self.plan.model_dump(mode="json", exclude={"defenses", "seeds"})
        return digest_of({"plan": plan, "seed": self.seed})

    def run(self, root: Path, command: list[str], tell: Tell) -> list[str]:
        """Train it; returns no cells."""
        del command
        plan = self.plan
        job = TrainingJob(
            splits=load_splits(plan.data, seed=plan.data_seed),
            data=plan.data,
            data_seed=plan.data_seed,
            arch=plan.arch,
            fit=plan.fit,
            seed=self.seed,
            directory=root / self.folder,
            device=self.device,
            progress=lambda done, total, _: tell("training", done, total),
        )
        train_victim(plan.recipe, job)
        return []


@dataclass(frozen=True)
class AssessUnit:
    """One victim behind one defense, attacked by all attackers with one seed."""

    study: Study
    victim: TrainUnit
    defense: DefensePlan
    seed: int

    @property
    def folder(self) -> Path:
        """Where its records go; other settings give another folder; more attackers or budgets and other names do not."""
        slug = re.sub(r"[^A-Za-z0-9_.]+", "-", self.defense.defense.spec).strip("-")[:40]
        return Path("runs", self.victim.folder.name, f"{slug}-seed{self.seed}-{digest_of(self._setting())[:8]}")

    @property
    def needs(self) -> Path | None:
        """Folder of its victim."""
        return self.victim.folder

    @property
    def makes(self) -> tuple[Path, ...]:
        """Folders that it writes to: of its records, and of its calibrated defense."""
        return self.folder, self._protected

    def __str__(self) -> str:
        return f"{self.victim.name}-{self.victim.seed} behind {self.defense.name}, seed {self.seed}"

    def digest(self) -> str:
        """Hash of all that its records depend on."""
        grid = self.study.model_dump(mode="json", include=set(_GRID))
        suite = str(find_suite(self.study.suite)) if self.study.suite else None  # with its version
        return digest_of({"setting": self._setting(), "grid": {**grid, "suite": suite}})

    def run(self, root: Path, command: list[str], tell: Tell) -> list[str]:
        """Attack it; returns the cells of its records."""
        out = root / self.folder
        records = assess(self._spec(root), out, command=command, observer=_Relay(tell), kept=_kept())
        return [record.cell for record in records]

    def spec(self, victim: str, defense: Defense) -> AssessmentSpec:
        """The assessment of a victim at a path behind a ready-made defense."""
        study = self.study
        return AssessmentSpec(
            victim=victim,
            pool=study.pool,
            attacks=study.attacks,
            suite=study.suite,
            defenses=(defense,),
            budgets=study.budgets,
            seeds=(self.seed,),
            output=study.output,
            clone_arch=study.clone.arch,
            clone_init=study.clone.init,
            clone_fit=study.clone.fit,
            accounts=study.accounts,
            benign_share=study.benign_share,
            device=study.device,
            drop_overlap=study.drop_overlap,
            robust=study.robust,
            robust_images=study.robust_images,
            target_fidelity=study.target_fidelity,
        )

    @property
    def _protected(self) -> Path:
        return "protected" / self.folder.relative_to("runs")

    def _spec(self, root: Path) -> AssessmentSpec:
        victim = root / self.victim.folder
        defense = self.defense.defense
        if self.defense.calibrate:
            defense = self._calibrated(victim, root / self._protected)
        return self.spec(str(victim), defense)

    def _calibrated(self, victim: Path, out: Path) -> Defense:
        """The defense set to its limits with the seed of this unit, by which it is prepared again for the attack."""
        limits = self.defense.calibrate
        if limits and not (out / PROTECTION_FILE).exists():
            spec = ProtectSpec(
                subject=SubjectSpec(victim=str(victim), device=self.study.device),
                defense=self.defense.defense,
                budget=limits.budget,
                step=limits.step,
                images=limits.images,
                seed=self.seed,
            )
            protect(spec, out)
        return parse_defense(load_protection(out)[0].defense)

    def _setting(self) -> dict[str, Any]:
        outside = {"study", "about", "victims", "defenses", "seeds", "claims", "target_fidelity", *_GRID}
        return {
            "study": self.study.model_dump(mode="json", exclude=outside),
            "victim": self.victim.digest(),
            "defense": self.defense.model_dump(mode="json", exclude={"name"}),
            "seed": self.seed,
        }


Unit = TrainUnit | AssessUnit


@dataclass(frozen=True)
class _Relay:
    """Passes the progress of an assessment on."""

    tell: Tell

    def cells(self, done: int, total: int) -> None:
        self.tell(RECORDS_STAGE, done, total)

    def stage(self, name: str, done: int, total: int) -> None:
        self.tell(name, done, total)


def plan_units(study: Study) -> tuple[list[TrainUnit], list[AssessUnit]]:
    """All victims of a study, and all attacks on them, in the order of the file."""
    trainings, assessments = [], []
    for name, plan in study.victims.items():
        for seed in plan.seeds or study.seeds:
            training = TrainUnit(name, plan, seed, study.device)
            trainings.append(training)
            attacked_with = study.seeds if plan.seeds else (seed,)
            for defense in study.defenses_of(name):
                assessments += [AssessUnit(study, training, defense, own) for own in attacked_with]
    return trainings, assessments
