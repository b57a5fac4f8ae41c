"""The schedule of units, with a crew that runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelmoat.studies import load_study
from modelmoat.studies.engine import Death, Message, Outcome, Progress, Schedule
from modelmoat.studies.units import Unit, plan_units

KILLED = Death("with exit code -9")


@dataclass
class Crew:
    """Says what it was told to say of a unit, else that the unit is done; the unit that began last speaks first."""

    size: int
    says: dict[str, list[Message]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    lanes: dict[int, Unit] = field(default_factory=dict)
    most: int = 0

    def start(self, lane: int, unit: Unit) -> None:
        assert lane not in self.lanes
        assert 0 <= lane < self.size
        self.lanes[lane] = unit
        self.log.append(f"start {unit}")
        self.most = max(self.most, len(self.lanes))

    def hear(self) -> Iterable[tuple[int, Message]]:
        lane, unit = list(self.lanes.items())[-1]
        message = (self.says.get(str(unit)) or [Outcome()]).pop(0)
        if not isinstance(message, Progress):
            del self.lanes[lane]
            self.log.append(f"end {unit}")
        yield lane, message


class Watch:
    def __init__(self) -> None:
        self.told: list[tuple[str, Progress | Outcome]] = []

    def progress(self, lane: int, unit: Unit, progress: Progress) -> None:
        self.told.append((str(unit), progress))

    def ended(self, lane: int, unit: Unit, outcome: Outcome) -> None:
        self.told.append((str(unit), outcome))

    def outcomes(self) -> dict[str, Outcome]:
        return {name: message for name, message in self.told if isinstance(message, Outcome)}


@pytest.fixture
def units(write: Callable[..., Path]) -> list[Unit]:
    """Two victims and two attacks on each."""
    trainings, assessments = plan_units(load_study(write(("    seeds: [0]\n", "")))[0])
    return [*trainings, *assessments]


VICTIM, OTHER = "train plain, seed 0", "train plain, seed 1"


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_units_wait_for_what_they_need_and_for_a_free_lane(units: list[Unit], size: int) -> None:
    crew = Crew(size)
    assert Schedule(crew, Watch()).run(units, set()) == {unit.folder for unit in units}
    assert sorted(crew.log) == sorted([f"start {unit}" for unit in units] + [f"end {unit}" for unit in units])
    assert crew.most == min(size, 3)  # two attacks on one victim beside the other
    for unit in units[2:]:
        victim = next(one for one in units if one.folder == unit.needs)
        assert crew.log.index(f"end {victim}") < crew.log.index(f"start {unit}")


def test_what_was_done_before_is_built_on(units: list[Unit]) -> None:
    crew, done = Crew(2), {unit.folder for unit in units[:2]}
    assert Schedule(crew, Watch()).run(units[2:], done) == {unit.folder for unit in units}
    assert not any("train" in line for line in crew.log)


def test_without_a_victim_its_attacks_do_not_start(units: list[Unit]) -> None:
    crew, watch = Crew(2, {VICTIM: [Outcome(error="boom")]}), Watch()
    done = Schedule(crew, watch).run(units, set())
    assert done == {unit.folder for unit in units if "seed 1" in str(unit)}
    assert not any("start plain-0" in line for line in crew.log)
    assert watch.outcomes()[VICTIM].error == "boom"


def test_a_unit_whose_process_died_is_tried_again_next(units: list[Unit]) -> None:
    crew, watch = Crew(1, {VICTIM: [Progress("training", 1, 2), KILLED]}), Watch()
    assert len(Schedule(crew, watch).run(units, set())) == len(units)
    assert crew.log[:4] == [f"start {VICTIM}", f"end {VICTIM}"] * 2
    assert (VICTIM, Progress("training", 1, 2)) in watch.told
    assert [message for name, message in watch.told if name == VICTIM and isinstance(message, Outcome)] == [Outcome()]


def test_a_unit_whose_processes_die_is_given_up(units: list[Unit]) -> None:
    crew, watch = Crew(1, {VICTIM: [KILLED, Death("with its machine")], OTHER: [KILLED]}), Watch()
    done = Schedule(crew, watch).run(units, set())
    assert done == {unit.folder for unit in units if "seed 1" in str(unit)}
    (error,) = [outcome.error for outcome in watch.outcomes().values() if outcome.error]
    assert error == "its process died 2 times, last with its machine; fix: fewer --workers if memory ran out"
