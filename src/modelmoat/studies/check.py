"""What can be known of a study before it runs: that its parts fit together, and what it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from modelmoat.assessment.insight import DefenseInsight
from modelmoat.assessment.suites import find_suite, has_a_use, misfit
from modelmoat.attacks import Attack
from modelmoat.core.errors import DataError, ModelmoatError
from modelmoat.core.shapes import by, reshape_options
from modelmoat.data import ImageSet, Splits, load, load_splits
from modelmoat.defenses.calibration import find_dial
from modelmoat.models import create_network
from modelmoat.studies.document import Document, Place
from modelmoat.studies.study import Study
from modelmoat.studies.units import AssessUnit, TrainUnit
from modelmoat.training import FitSettings

_STEPS = 5


@dataclass(frozen=True)
class Cost:
    """What units take: trainings, runs, records, queries, and seconds of plain training steps.

    Attributes:
        seconds: on one core of this machine, or on its GPU where the study has one; none where this machine has not.
    """

    victims: int
    runs: int
    cells: int
    queries: int
    seconds: float | None


class Check:
    """Loads the data of a study and refuses what cannot work, with the line of the file.

    Args:
        study: what to check.
        document: where its lines are.
    """

    def __init__(self, study: Study, document: Document) -> None:
        self._study, self._document = study, document
        self._splits = cache(load_splits)
        self._pools = cache(load)
        self._step_seconds = cache(step_seconds)

    def run(self, trainings: Sequence[TrainUnit]) -> None:
        """Raise `OptionError` for the first part that does not fit."""
        for unit in {unit.name: unit for unit in trainings}.values():
            self._check_victim(unit)

    def cost(self, trainings: Sequence[TrainUnit], assessments: Sequence[AssessUnit]) -> Cost:
        """What these units take."""
        attackers = [(unit, self._attackers(unit)) for unit in assessments]
        queries = sum(attack.sends for _, attacks in attackers for attack in attacks) * max(self._study.budgets)
        seconds = None
        if torch.device(self._study.device).type == "cpu" or torch.cuda.is_available():
            clones = sum(len(attacks) * self._clone_seconds(unit.victim) for unit, attacks in attackers)
            seconds = sum(map(self._victim_seconds, trainings)) + clones
        cells = sum(len(attacks) for _, attacks in attackers) * len(self._study.budgets)
        return Cost(len(trainings), len(assessments), cells, queries, seconds)

    def _check_victim(self, unit: TrainUnit) -> None:
        victim: Place = ("victims", unit.name)
        with self._at((*victim, "data")):
            test = self._data(unit).test
        with self._at((*victim, "arch")):
            create_network(unit.plan.arch, num_classes=test.num_classes, input_shape=test.shape, seed=0)
        with self._at(("clone", "arch")):
            create_network(self._clone_arch(unit), num_classes=test.num_classes, input_shape=test.shape, seed=0)
        self._check_calibrations(unit, test.num_classes)
        with self._at(("pool",)):
            pool = self._pool(unit)
            _check_shape(self._study.pool, pool, test)
        for number, attack in enumerate(self._study.attacks):
            with self._at(("attacks", number)):
                self._check_attack(attack, unit, pool)

    def _check_calibrations(self, unit: TrainUnit, classes: int) -> None:
        own: Place = () if unit.plan.defenses is None else ("victims", unit.name)
        for number, plan in enumerate(self._study.defenses_of(unit.name)):
            if plan.calibrate:
                with self._at((*own, "defenses", number)):
                    find_dial(plan.defense, classes, plan.calibrate.step)

    def _check_attack(self, attack: Attack, unit: TrainUnit, pool: ImageSet) -> None:
        if not attack.own_kind:
            attack.check(self._study.budgets, len(pool))
            attack.check_fit(pool, self._data(unit).test.num_classes)
        for plan in self._study.defenses_of(unit.name):
            attack.check_insight(DefenseInsight(plan.defense))

    @contextmanager
    def _at(self, place: Place) -> Iterator[None]:
        try:
            yield
        except ModelmoatError as error:
            raise self._document.error(place, str(error)) from error

    def _attackers(self, unit: AssessUnit) -> list[Attack]:
        """Who attacks, as far as that is known before the victim is there."""
        study, insight = self._study, DefenseInsight(unit.defense.defense)
        asked = unit.spec("", unit.defense.defense).attackers
        classes = self._data(unit.victim).test.num_classes
        suite = find_suite(study.suite).attackers() if study.suite else ()
        fitting = [
            attack
            for attack in suite
            if attack not in asked
            and has_a_use(attack, insight)
            and (attack.own_kind or not misfit(attack, self._pool(unit.victim), study.budgets, classes, study.output))
        ]
        return [*asked, *fitting]

    def _victim_seconds(self, unit: TrainUnit) -> float:
        return self._seconds(unit, unit.plan.arch, unit.plan.fit, len(self._data(unit).train))

    def _clone_seconds(self, unit: TrainUnit) -> float:
        """For the clones at all budgets of one attacker."""
        arch, fit = self._clone_arch(unit), self._study.clone.fit
        return sum(self._seconds(unit, arch, fit, budget) for budget in self._study.budgets)

    def _seconds(self, unit: TrainUnit, arch: str, fit: FitSettings, rows: int) -> float:
        test = self._data(unit).test
        steps = fit.total_epochs(rows) * fit.steps_per_epoch(rows)
        batch = min(fit.batch_size, max(2, rows))
        return steps * self._step_seconds(arch, test.num_classes, test.shape, batch, self._study.device)

    def _data(self, unit: TrainUnit) -> Splits:
        return self._splits(unit.plan.data, seed=unit.plan.data_seed)

    def _pool(self, unit: TrainUnit) -> ImageSet:
        return self._pools(self._study.pool, seed=unit.plan.data_seed)

    def _clone_arch(self, unit: TrainUnit) -> str:
        return self._study.clone.arch or unit.plan.arch


def step_seconds(arch: str, classes: int, shape: tuple[int, int, int], batch: int, device: str = "cpu") -> float:
    """Seconds that a training step takes on this machine, as the median of a few; of one core where there is no GPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = create_network(arch, num_classes=classes, input_shape=shape, seed=0)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        images = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
        labels = torch.arange(batch, device=device) % classes
        times = []
        for _ in range(1 + _STEPS):
            start = _now(device)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            times.append(_now(device) - start)
        return statistics.median(times[1:])  # the first one sets things up
    finally:
        torch.set_num_threads(threads)


def _now(device: str) -> float:
    """Seconds that this thread has worked; of the clock, with all work done, where a GPU works."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _check_shape(reference: str, pool: ImageSet, test: ImageSet) -> None:
    if pool.shape != test.shape:
        raise DataError(
            f"'{reference}' has images of {by(pool.shape)}, the victim takes {by(test.shape)} (channels x height x width); "
            f"fix: {reference},{reshape_options(pool.shape, test.shape)}"
        )
