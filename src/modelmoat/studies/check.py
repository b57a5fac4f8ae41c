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
from modelmoat.assessment.scene import check_attack, check_output, find_start, fit_suite, usable_pool
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.suites import has_a_use
from modelmoat.attacks import Attack
from modelmoat.core.errors import ModelmoatError
from modelmoat.core.hardware import gpu_number
from modelmoat.data import ImageSet, Splits, load, load_splits
from modelmoat.defenses import Defense, Preparation, parse_defense
from modelmoat.defenses.calibration import find_dial
from modelmoat.models import TorchPredictor, create_network
from modelmoat.studies.document import Document, Place
from modelmoat.studies.study import DefensePlan, Study
from modelmoat.studies.units import AssessUnit, TrainUnit
from modelmoat.training import FitSettings

_STEPS = 5
_KEYS = {
    "--pool ": "pool: ",
    "--drop-overlap": "drop_overlap: true",
    "--clone-arch": "arch of clone",
    "--calibrate NAME": "step: NAME",
}


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
        self._pools: dict[tuple[str, int], ImageSet] = {}
        self._clone_archs: dict[tuple[str, int, str], str] = {}
        self._step_seconds = cache(step_seconds)

    def run(self, trainings: Sequence[TrainUnit]) -> None:
        """Raise `OptionError` for the first part that does not fit."""
        for unit in {unit.name: unit for unit in trainings}.values():
            self._check_victim(unit)

    def cost(self, trainings: Sequence[TrainUnit], assessments: Sequence[AssessUnit]) -> Cost:
        """What these units take."""
        attackers = [(unit, self._attackers(unit)) for unit in assessments]
        queries = sum(attack.sends for _, attacks in attackers for attack in attacks) * max(self._study.budgets)
        seconds, gpu = None, gpu_number(self._study.device)
        if gpu is None or gpu < torch.cuda.device_count():
            clones = sum(len(attacks) * self._clone_seconds(unit.victim) for unit, attacks in attackers)
            seconds = sum(map(self._victim_seconds, trainings)) + clones
        cells = sum(len(attacks) for _, attacks in attackers) * len(self._study.budgets)
        return Cost(len(trainings), len(assessments), cells, queries, seconds)

    def _check_victim(self, unit: TrainUnit) -> None:
        victim: Place = ("victims", unit.name)
        with self._at((*victim, "data")):
            test = self._data(unit).test
        with self._at((*victim, "arch")):
            network = create_network(unit.plan.arch, num_classes=test.num_classes, input_shape=test.shape, seed=0)
        self._check_defenses(unit, TorchPredictor(network, arch=unit.plan.arch))
        with self._at(("output",)):
            check_output(self._spec(unit), unit.name, test.num_classes)
        with self._at(("pool",)):
            self._pool(unit)
        with self._at(("clone", "init" if self._study.clone.init else "arch")):
            arch = self._clone_arch(unit)
            create_network(arch, num_classes=test.num_classes, input_shape=test.shape, seed=0)
        for number, attack in enumerate(self._study.attacks):
            with self._at(("attacks", number)):
                for one in filter(None, (attack, attack.beside())):
                    self._check_attack(one, unit)

    def _check_defenses(self, unit: TrainUnit, untrained: TorchPredictor) -> None:
        """Let defenses that are cheap to prepare, and calibrations, refuse the victim."""
        own: Place = () if unit.plan.defenses is None else ("victims", unit.name)
        preparation = Preparation(predictor=untrained, train=self._data(unit).train)
        for number, plan in enumerate(self._study.defenses_of(unit.name)):
            with self._at((*own, "defenses", number)):
                if plan.calibrate:
                    find_dial(plan.defense, untrained.num_classes, plan.calibrate.step)
                elif "training" not in plan.defense.needs:
                    plan.defense.prepare(preparation)

    def _check_attack(self, attack: Attack, unit: TrainUnit) -> None:
        check_attack(attack, self._spec(unit), self._pool(unit), self._data(unit), unit.plan.data_seed)
        for plan in self._study.defenses_of(unit.name):
            attack.check_insight(DefenseInsight(plan.defense))

    @contextmanager
    def _at(self, place: Place) -> Iterator[None]:
        try:
            yield
        except ModelmoatError as error:
            raise self._document.error(place, _of_a_study(str(error))) from error

    def _attackers(self, unit: AssessUnit) -> list[Attack]:
        """Who attacks, as far as that is known before the victim is there."""
        spec, insight = self._spec(unit.victim, unit.defense.defense), DefenseInsight(unit.defense.defense)
        fitting, _ = fit_suite(spec, self._pool(unit.victim), self._data(unit.victim), unit.victim.plan.data_seed)
        useful = [attack for attack in fitting if attack not in spec.attackers and has_a_use(attack, insight)]
        return [*spec.attackers, *useful]

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
        """What an attacker may send to this victim; raises `DataError` where that does not fit it."""
        key = (unit.plan.data, unit.plan.data_seed)
        if key not in self._pools:
            pool = load(self._study.pool, seed=unit.plan.data_seed)
            self._pools[key] = usable_pool(self._spec(unit), pool, self._data(unit))
        return self._pools[key]

    def _clone_arch(self, unit: TrainUnit) -> str:
        """Architecture of the clones; raises as `find_start` does."""
        key = (unit.plan.data, unit.plan.data_seed, unit.plan.arch)
        if key not in self._clone_archs:
            classes = self._data(unit).test.num_classes
            start = find_start(self._spec(unit), unit.plan.arch, classes, self._pool(unit))
            self._clone_archs[key] = start.network.arch if start else self._study.clone.arch or unit.plan.arch
        return self._clone_archs[key]

    def _spec(self, unit: TrainUnit, defense: Defense | None = None) -> AssessmentSpec:
        """The assessment of a victim that is not there yet, behind a defense or none."""
        plan = DefensePlan(defense=defense or parse_defense("none"))
        return AssessUnit(self._study, unit, plan, seed=0).spec(unit.name, plan.defense)


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


def _of_a_study(words: str) -> str:
    """An error that speaks of options of ``assess``, with the keys of a study in their place."""
    for option, key in _KEYS.items():
        words = words.replace(option, key)
    return words
