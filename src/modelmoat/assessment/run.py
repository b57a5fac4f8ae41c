"""The loop over defenses, attacks and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Protocol, TypeVar

from modelmoat import __version__
from modelmoat.assessment.folder import RunFolder, locked
from modelmoat.assessment.scene import Scene, set_scene
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.utility import Utility, evaluate_theft, measure_utility
from modelmoat.attacks import Attack, Theft, Thief
from modelmoat.core.records import Record
from modelmoat.core.runs import now
from modelmoat.defenses import Defense, Preparation
from modelmoat.models import ModelCard, save_model
from modelmoat.victims import Victim

T = TypeVar("T")


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


def assess(
    spec: AssessmentSpec, out: Path, *, command: list[str] | None = None, observer: Observer | None = None
) -> list[Record]:
    """Run every cell that has no record yet; returns the records of the whole grid, in its order.

    Interrupted at any point and called again, it goes on: finished records stay, and queries that were answered are
    replayed from the journal instead of being sent again.

    Raises:
        UsageError: the specification, or what it names, cannot be used.
    """
    with locked(out):
        scene = set_scene(spec)
        _check_defenses(spec, scene)
        folder = RunFolder(out, spec, scene, command or [])
        jobs = _jobs(spec, folder)
        total = sum(len(job.cells) for job in jobs)
        left = sum(len(job.missing) for job in jobs)
        _tell(observer, total - left, total)
        for job in jobs:
            for record in _run_job(spec, scene, folder, job, observer) if job.missing else ():
                folder.add(record)
                left -= 1
                _tell(observer, total - left, total)
        folder.finish()
    wanted = [cell for job in jobs for cell in job.cells.values()]
    by_cell = {record.cell: record for record in folder.records}
    return [by_cell[cell] for cell in wanted]


def _check_defenses(spec: AssessmentSpec, scene: Scene) -> None:
    """Let defenses that are cheap to prepare refuse the victim before the first query is paid."""
    for defense in spec.defenses:
        if "training" not in defense.needs:
            defense.prepare(_preparation(spec, scene, seed=0))


def _preparation(spec: AssessmentSpec, scene: Scene, *, seed: int) -> Preparation:
    return Preparation(predictor=scene.predictor, train=scene.train, seed=seed, device=spec.device)


def _jobs(spec: AssessmentSpec, folder: RunFolder) -> list[_Job]:
    done = folder.done()
    jobs = []
    for defense, attack, seed in product(_once(spec.defenses), _once(spec.attacks), _once(spec.seeds)):
        cells = {budget: folder.cell(defense.spec, attack.spec, budget, seed) for budget in sorted(set(spec.budgets))}
        missing = frozenset(budget for budget, cell in cells.items() if cell not in done)
        jobs.append(_Job(defense, attack, seed, cells, missing))
    return jobs


def _run_job(
    spec: AssessmentSpec, scene: Scene, folder: RunFolder, job: _Job, observer: Observer | None
) -> Iterator[Record]:
    ready = job.defense.prepare(_preparation(spec, scene, seed=job.seed))
    victim = Victim(scene.predictor, defense=ready, output=spec.output).with_ledger(
        max(job.missing), folder.journal(job.defense.spec, job.attack.spec, job.seed)
    )
    thief = Thief(
        victim=victim,
        pool=scene.pool,
        clone_arch=scene.clone_arch,
        fit=spec.clone_fit,
        seed=job.seed,
        device=spec.device,
        wanted=job.missing,
        progress=observer.stage if observer else None,
    )
    budgets = [budget for budget in job.cells if budget <= max(job.missing)]
    utility: Utility | None = None
    for theft in job.attack.run(thief, budgets):
        if theft.clone is None:
            continue
        if utility is None or ready.stateful:
            utility = measure_utility(victim, scene.test, scene.clean, account=f"benign at {theft.budget}")
        if spec.keep_clones:
            _keep(scene, folder, job, theft)
        yield _record(spec, scene, folder, job, theft, utility)


def _record(spec: AssessmentSpec, scene: Scene, folder: RunFolder, job: _Job, theft: Theft, utility: Utility) -> Record:
    evaluation = evaluate_theft(theft, scene.test, scene.clean, utility.served)
    costs = {key: value for key, value in vars(utility).items() if key != "served"}
    return Record(
        package_version=__version__,
        cell=job.cells[theft.budget],
        created=now(),
        victim=scene.predictor.reference,
        victim_digest=scene.predictor.digest,
        victim_arch=scene.predictor.arch,
        victim_recipe=scene.predictor.recipe,
        output_kind=spec.output.kind,
        data=scene.data,
        test_digest=folder.hashes["test"],
        test_size=len(scene.test),
        pool=spec.pool,
        pool_digest=folder.hashes["pool"],
        pool_size=len(scene.pool),
        defense=job.defense.spec,
        attack=job.attack.spec,
        attacker_knows=job.attack.knowledge(),
        defense_aware=job.attack.defense_aware,
        budget=theft.budget,
        seed=job.seed,
        sent=theft.sent,
        unique=theft.unique,
        clone_arch=scene.clone_arch,
        clone_steps=theft.steps,
        query_seconds=theft.query_seconds,
        train_seconds=theft.train_seconds,
        device=spec.device,
        precision=theft.precision,
        **costs,
        **vars(evaluation),
    )


def _keep(scene: Scene, folder: RunFolder, job: _Job, theft: Theft) -> None:
    if theft.clone is None:
        return
    cell = job.cells[theft.budget]
    card = ModelCard.of(
        theft.clone,
        class_names=scene.test.class_names,
        recipe=f"clone: {job.attack.spec} against {job.defense.spec}, {theft.sent} queries, seed {job.seed}",
        data=scene.pool.reference,
        precision=theft.precision,
    )
    save_model(folder.clone_folder(cell), theft.clone, card)


def _once(values: Sequence[T]) -> list[T]:
    """Without repeats, in the order given: a cell named twice is one cell."""
    return list(dict.fromkeys(values))


def _tell(observer: Observer | None, done: int, total: int) -> None:
    if observer:
        observer.cells(done, total)
