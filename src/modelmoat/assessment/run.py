"""The loop over defenses, attacks and seeds."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelmoat import __version__
from modelmoat.assessment.folder import RunFolder, locked
from modelmoat.assessment.insight import DefenseInsight
from modelmoat.assessment.robustness import Robustness, RobustnessProbe
from modelmoat.assessment.scene import Scene, set_scene
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.suites import has_a_use
from modelmoat.assessment.utility import Utility, evaluate_theft, measure_utility
from modelmoat.attacks import Attack, Theft, Thief
from modelmoat.attacks.clones import CloneCache
from modelmoat.core.errors import ModelmoatError, RunError, UsageError, require
from modelmoat.core.records import Record
from modelmoat.core.runs import now
from modelmoat.defenses import Defense, parse_defense
from modelmoat.models import Classifier, ModelCard, Predictor, load_card, save_model
from modelmoat.models.artifact import CARD_FILE
from modelmoat.models.onnx_predictor import OnnxPredictor
from modelmoat.training import TrainingDiverged
from modelmoat.victims import BatchMemory, BusyVictim, QueryTarget, Responder, Victim

T = TypeVar("T")

BRACKET = ("none", "label_only")  # ceiling and floor


class Observer(Protocol):
    """Told how an assessment goes."""

    def cells(self, done: int, total: int) -> None:
        """Records that exist, and records there will be."""
        ...

    def stage(self, name: str, done: int, total: int) -> None:
        """How far the current stage of the current attack is."""
        ...


@dataclass(frozen=True)
class _Job:
    """One attacker against one defense; its budgets share one stream of queries."""

    defense: Defense
    attack: Attack
    seed: int
    cells: dict[int, str]
    missing: frozenset[int]

    def __str__(self) -> str:
        return f"{self.attack.spec} against {self.defense.spec}, seed {self.seed}"


@dataclass(frozen=True)
class Kept:
    """What is computed once for all attackers: the clone of a transfer set, and the model's own answers to a batch.

    Several assessments of one process may share it; no record depends on that.
    """

    clones: CloneCache = field(default_factory=CloneCache)
    answers: BatchMemory = field(default_factory=BatchMemory)


def assess(
    spec: AssessmentSpec,
    out: Path,
    *,
    command: list[str] | None = None,
    observer: Observer | None = None,
    kept: Kept | None = None,
) -> list[Record]:
    """Run every cell that has no record yet; returns the records of the whole grid, in its order.

    Interrupted at any point and called again, it goes on: finished records stay, and queries that were answered are
    replayed from the journal instead of being sent again.

    Raises:
        UsageError: the specification, or what it names, cannot be used.
        TrainingDiverged: the loss of a clone is no longer a number.

    An attacker that cannot go on stops no other: its error is raised when all other cells have their records. A folder that
    cannot be written (`RunError`) stops at once.
    """
    with locked(out):
        scene = set_scene(spec)
        _check_defenses(spec, scene)
        _check_attackers(spec, scene)
        _tell_left_out(scene)
        require(
            bool(scene.attackers),
            f"suite '{spec.suite}': no attacker in it fits this victim, its answers and this pool; fix: others, by --attack",
        )
        probe = _probe(spec, scene, observer)
        folder = RunFolder(out, spec, scene, command or [])
        return _Run(spec, scene, folder, observer, probe, kept or Kept()).records()


def _check_defenses(spec: AssessmentSpec, scene: Scene) -> None:
    """Let defenses that are cheap to prepare refuse the victim before the first query is paid."""
    for defense in lineup(spec, scene):
        if "training" not in defense.needs:
            defense.prepare(scene.subject.preparation(seed=0, device=spec.device))


def _check_attackers(spec: AssessmentSpec, scene: Scene) -> None:
    """Let attackers who know a defense say that what they know is of no use, before the first query is paid."""
    for defense, attack in product(scene.subject.lineup(spec.defenses), spec.attackers):
        attack.check_insight(DefenseInsight(defense))


def _tell_left_out(scene: Scene) -> None:
    for attack, reason in scene.left_out.items():
        warnings.warn(f"{attack} of the suite stays out: {reason}", stacklevel=2)


def lineup(spec: AssessmentSpec, scene: Scene) -> list[Defense]:
    """The defenses to attack: those asked for and, where they are to be bracketed, the ceiling and the floor."""
    asked = scene.subject.lineup(spec.defenses)
    if not spec.bracketed or spec.output.kind == "label":
        return asked
    ends = [parse_defense(name) for name in BRACKET]
    return [*ends, *(defense for defense in asked if defense not in ends)]


def _probe(spec: AssessmentSpec, scene: Scene, observer: Observer | None) -> RobustnessProbe | None:
    """What measures robustness, if that is asked for."""
    if spec.robust is None:
        return None
    progress = observer.stage if observer else None
    return RobustnessProbe(spec.robust, scene.predictor, scene.test, most=spec.robust_images, progress=progress)


class _Run:
    """One pass over the grid."""

    def __init__(
        self,
        spec: AssessmentSpec,
        scene: Scene,
        folder: RunFolder,
        observer: Observer | None,
        probe: RobustnessProbe | None,
        kept: Kept,
    ) -> None:
        self._spec, self._scene, self._folder, self._observer, self._probe = spec, scene, folder, observer, probe
        self._kept = kept
        self._int8 = _as_int8(scene.predictor)
        self._prepared: dict[tuple[str, int], Responder] = {}
        self._utilities: dict[tuple[str, int], Utility] = {}

    def records(self) -> list[Record]:
        """Fill in what is missing; the records of the grid, in its order."""
        jobs = self._jobs()
        done = sum(len(job.cells) - len(job.missing) for job in jobs)
        total = sum(len(job.cells) for job in jobs)
        self._tell(done, total)
        failed: list[ModelmoatError] = []
        for job in jobs:
            try:
                for record in self._run(job) if job.missing else ():
                    if record.cell not in self._folder.done():
                        self._folder.add(record)
                    done += 1
                    self._tell(done, total)
            except RunError:
                raise
            except (TrainingDiverged, UsageError) as error:
                failed.append(type(error)(f"{job}: {error}"))
        self._folder.finish()
        if failed:
            others = f" (and {len(failed) - 1} more)" if failed[1:] else ""
            raise type(failed[0])(f"{failed[0]}{others}")
        by_cell = {record.cell: record for record in self._folder.records}
        return [by_cell[cell] for job in jobs for cell in job.cells.values()]

    def _jobs(self) -> list[_Job]:
        spec, jobs = self._spec, []
        defenses, asked = lineup(spec, self._scene), set(spec.attackers)
        for defense, attack, seed in product(defenses, self._scene.attackers, _once(spec.seeds)):
            if attack not in asked and not has_a_use(attack, DefenseInsight(defense)):
                continue
            cells = {
                budget: self._folder.cell(defense.spec, attack.spec, budget, seed)
                for budget in sorted(set(spec.budgets))
            }
            missing = frozenset(budget for budget, cell in cells.items() if not self._finished(cell))
            jobs.append(_Job(defense, attack, seed, cells, missing))
        return jobs

    def _finished(self, cell: str) -> bool:
        kept = not self._spec.keep_clones or (self._folder.clone_folder(cell) / CARD_FILE).is_file()
        return kept and cell in self._folder.done()

    def _run(self, job: _Job) -> Iterator[Record]:
        journal = self._folder.journal(job.defense.spec, job.attack.spec, job.seed)
        victim = Victim(
            self._scene.predictor, defense=self._ready(job), output=self._spec.output, memory=self._kept.answers
        ).with_ledger(max(job.missing), journal)
        budgets = [budget for budget in job.cells if budget <= max(job.missing)]
        for theft in job.attack.run(self._thief(victim, job), budgets):
            if theft.clone is None:
                continue
            utility = self._utility(job, victim)
            if self._spec.keep_clones:
                self._keep(job, theft, theft.clone)
            robustness = self._probe.measure(victim, theft.clone, utility.served) if self._probe else None
            yield self._record(job, theft, utility, robustness, max(1, len(victim.ledger.by_account)))

    def _utility(self, job: _Job, victim: Victim) -> Utility:
        """What the defense costs now; where it has no state, measured once for all attacks and budgets of a seed.

        Its latency is measured once in any case.
        """
        key = (job.defense.spec, job.seed)
        if job.defense.stateful or key not in self._utilities:
            earlier = self._utilities.get(key)
            self._utilities[key] = measure_utility(victim, self._scene.test, self._scene.clean, earlier=earlier)
        return self._utilities[key]

    def _ready(self, job: _Job) -> Responder:
        """A ready defense in its first state; what was prepared for one attack serves the others of its seed."""
        key = (job.defense.spec, job.seed)
        if key not in self._prepared:
            self._prepared[key] = job.defense.prepare(
                self._scene.subject.preparation(seed=job.seed, device=self._spec.device)
            )
        return copy.deepcopy(self._prepared[key])

    def _thief(self, victim: Victim, job: _Job) -> Thief:
        return Thief(
            victim=self._busy(victim, job),
            pool=self._scene.pool_of(job.attack),
            clone_arch=self._scene.clone_arch,
            start=self._scene.start,
            fit=self._spec.clone_fit,
            seed=job.seed,
            device=self._spec.device,
            accounts=self._spec.accounts,
            clones=self._kept.clones,
            wanted=job.missing,
            insight=DefenseInsight(job.defense, victim),
            progress=self._observer.stage if self._observer else None,
        )

    def _busy(self, victim: Victim, job: _Job) -> QueryTarget:
        """The victim among benign traffic, which only a defense with a memory can tell from silence."""
        share = self._spec.benign_share
        if not share or not job.defense.stateful:
            return victim
        return BusyVictim(victim, self._scene.subject.splits.validation, share=share, seed=job.seed)

    def _record(
        self, job: _Job, theft: Theft, utility: Utility, robustness: Robustness | None, accounts: int
    ) -> Record:
        scene, spec, pool = self._scene, self._spec, self._scene.pool_of(job.attack)
        evaluation = evaluate_theft(theft, scene.test, scene.clean.probabilities, utility.served)
        costs = {key: value for key, value in vars(utility).items() if key != "served"}
        return Record(
            package_version=__version__,
            cell=job.cells[theft.budget],
            created=now(),
            victim=scene.predictor.reference,
            victim_digest=scene.subject.digest,
            victim_arch=scene.predictor.arch,
            victim_recipe=scene.predictor.recipe,
            **self._int8,
            output_kind=spec.output.kind,
            data=scene.subject.data,
            test_digest=self._folder.hashes["test"],
            test_size=len(scene.test),
            pool=pool.reference if job.attack.own_kind else spec.pool,
            pool_digest=pool.digest,
            pool_size=len(pool),
            defense=job.defense.spec,
            defense_inside=scene.subject.inside,
            defense_stateful=job.defense.stateful,
            defense_keeps_top1=job.defense.keeps_top1,
            attack=job.attack.spec,
            attacker_knows=job.attack.knowledge(),
            defense_aware=job.attack.defense_aware,
            budget=theft.budget,
            seed=job.seed,
            sent=theft.sent,
            unique=theft.unique,
            clone_arch=scene.clone_arch,
            clone_init=spec.clone_init,
            accounts=accounts,
            benign_share=spec.benign_share,
            clone_steps=theft.steps,
            query_seconds=theft.query_seconds,
            train_seconds=theft.train_seconds,
            device=spec.device,
            precision=theft.precision,
            **costs,
            **vars(evaluation),
            **(vars(robustness) if robustness else {}),
        )

    def _keep(self, job: _Job, theft: Theft, clone: Classifier) -> None:
        card = ModelCard.of(
            clone,
            class_names=self._scene.test.class_names,
            recipe=f"clone: {job.attack.spec} against {job.defense.spec}, {theft.sent} queries, seed {job.seed}",
            data=self._scene.pool.reference,
            precision=theft.precision,
        )
        save_model(self._folder.clone_folder(job.cells[theft.budget]), clone, card)

    def _tell(self, done: int, total: int) -> None:
        if self._observer:
            self._observer.cells(done, total)


def _once(values: Sequence[T]) -> list[T]:
    """Without repeats, in the order given: a cell named twice is one cell."""
    return list(dict.fromkeys(values))


def _as_int8(predictor: Predictor) -> dict[str, Any]:
    """What a record says of an int8 victim."""
    folder = predictor.artifact if isinstance(predictor, OnnxPredictor) else None
    made = load_card(folder).quantization if folder else None
    if made is None:
        return {}
    return {
        "int8_bytes": made.graph_bytes,
        "int8_agreement": made.agreement,
        "int8_float_agreement": made.float_agreement,
    }
