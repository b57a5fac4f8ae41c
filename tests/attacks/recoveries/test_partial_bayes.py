"""Partial Bayes, against a loop over the table row by row, and against the clean answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modelmoat.attacks.recoveries.partial_bayes import PartialBayes
from modelmoat.core.errors import OptionError
from modelmoat.core.seeds import generator
from modelmoat.training import as_float


def posterior_by_loop(table: tuple[Tensor, Tensor], received: Tensor, tolerance: float, same_top1: bool) -> Tensor:
    clean, served = (part.tolist() for part in table)
    means = []
    for row in received.tolist():
        top = max(range(len(row)), key=row.__getitem__)
        distances = [
            sum(abs(a - b) for a, b in zip(other, row, strict=True))
            if not same_top1 or max(range(len(other)), key=other.__getitem__) == top
            else float("inf")
            for other in served
        ]
        limit = max(tolerance, min(distances)) + 1e-6
        near = [clean[at] for at, distance in enumerate(distances) if distance <= limit]
        means.append([sum(column) / len(near) for column in zip(*near, strict=True)])
    return torch.tensor(means)


@pytest.mark.parametrize("prior", ["answers", "clone", "shadows", "oracle"])
def test_a_defense_that_changes_nothing_leaves_answers_within_the_tolerance(prior: str, loot: Callable) -> None:
    take = loot("none", 60)
    tolerance = 0.01
    found = take.recovered(f"partial_bayes:rows=2000,prior={prior},shadows=1,tolerance={tolerance}").targets
    off = (found - take.transfer.targets).abs().sum(dim=1)
    if prior in ("answers", "oracle"):  # whose guesses are the answers themselves
        assert float(off.max()) <= tolerance + 1e-5
    else:
        assert torch.equal(found.argmax(dim=1), take.transfer.targets.argmax(dim=1))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60), atol=1e-5, rtol=0)


@pytest.mark.parametrize("defense", ["rounding:decimals=1", "reverse_sigmoid:beta=0.4", "random_noise:strength=1.0"])
def test_answers_are_those_of_a_loop_over_the_table(defense: str, loot: Callable) -> None:
    take = loot(defense, 30)
    transfer, thief = take.transfer, take.thief
    recovery = PartialBayes(rows=300, prior="oracle", simulator="oracle", tolerance=0.05)
    found = recovery.restore(transfer, thief, "stage").targets
    simulation = recovery.simulation(transfer, thief, "stage")
    table = recovery.table(simulation, take.clean, transfer.images, generator(thief.seed, "table", "stage", 0))
    places = torch.arange(300) % 30
    images = as_float(transfer.images.batch(places))
    one_by_one = torch.cat(
        [simulation.respond(row[None], image[None]) for row, image in zip(table.clean, images, strict=True)]
    )
    torch.testing.assert_close(table.served, one_by_one, atol=1e-6, rtol=0)
    expected = posterior_by_loop((table.clean, one_by_one), transfer.targets, 0.05, simulation.keeps_top1)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("defense", ["rounding:decimals=1", "reverse_sigmoid:beta=0.4", "modelguard_w:epsilon=1.0"])
def test_answers_come_closer_to_clean_ones_and_closest_with_an_oracle(defense: str, loot: Callable) -> None:
    take = loot(defense, 200)
    honest, oracle = (
        take.recovered(f"partial_bayes:rows=5000,prior={prior}").targets for prior in ("answers", "oracle")
    )
    assert take.distance(honest) < 0.95 * take.distance()
    assert take.distance(oracle) < take.distance(honest)


def test_a_wrong_guess_at_the_defense_is_undone_as_guessed(loot: Callable) -> None:
    take = loot("none", 60)
    found = take.recovered("partial_bayes:rows=2000,assumed=reverse_sigmoid:beta=0.9").targets
    assert take.distance(found) > 0.1


def test_rough_guesses_are_improved_in_rounds_and_an_oracles_are_not(
    loot: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = loot("rounding:decimals=1", 40)
    guesses: list[Tensor] = []
    table = PartialBayes.table

    def watched(self: PartialBayes, simulation: object, found: Tensor, *rest: object) -> object:
        guesses.append(found)
        return table(self, simulation, found, *rest)

    monkeypatch.setattr(PartialBayes, "table", watched)
    found = take.recovered("partial_bayes:rows=500,rounds=3").targets
    assert len(guesses) == 3
    assert torch.equal(guesses[0], take.transfer.targets)
    assert not torch.equal(guesses[1], guesses[2])
    assert not torch.equal(found, guesses[2])
    guesses.clear()
    take.recovered("partial_bayes:rows=500,rounds=3,prior=oracle")
    assert len(guesses) == 1
    torch.testing.assert_close(guesses[0], take.clean)


def test_oracles_are_called_so() -> None:
    assert "ORACLE" not in PartialBayes().knowledge()
    assert "ORACLE: is given the victim's clean answers" in PartialBayes(prior="oracle").knowledge()
    assert "ORACLE: is given the victim's own ready defense" in PartialBayes(simulator="oracle").knowledge()
    assert "dcp:beta=0.3, right or wrong" in PartialBayes(assumed="dcp:beta=0.3").knowledge()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rows": 0}, "rows=0: expected at least 1"),
        ({"rounds": 0}, "rounds=0: expected at least 1"),
        ({"shadows": 0}, "shadows=0: expected at least 1"),
        ({"tolerance": -0.1}, "tolerance=-0.1: expected 0 or more"),
        ({"concentration": 0.0}, "concentration=0.0: expected a positive number"),
        ({"concentration": float("inf")}, "concentration=inf: expected a positive number"),
        ({"simulator": "oracle", "assumed": "none"}, "leave out one of the two"),
    ],
)
def test_impossible_parameters_are_refused(parameters: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        PartialBayes(**parameters)
