"""Networks that restore answers, on rows and answers that they were not trained on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modelmoat.attacks.recoveries import _restorer
from modelmoat.attacks.recoveries._restorer import Restorer, mean_l1, train_restorer
from modelmoat.attacks.recoveries._table import Table
from modelmoat.core.errors import OptionError
from modelmoat.defenses import parse_defense


@pytest.fixture(autouse=True)
def _enough(monkeypatch: pytest.MonkeyPatch, _short: None) -> None:
    monkeypatch.setattr(_restorer, "_FEWEST_STEPS", 200)


def table(defense: str, count: int, seed: int) -> Table:
    random = torch.Generator().manual_seed(seed)
    clean = torch.softmax(4 * torch.randn(count, 10, generator=random), dim=1)
    return Table(clean, parse_defense(defense).perturb(clean))


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().sum(dim=1).mean())


@pytest.mark.parametrize("defense", ["reverse_sigmoid:beta=0.4", "dcp:beta=0.9"])
def test_held_out_rows_come_closer_to_clean_ones(defense: str, loot: Callable) -> None:
    held_out = table(defense, 500, seed=1)
    network = train_restorer(table(defense, 4000, seed=0), loot("none", 2).thief, "test", epochs=20, lr=0.05)
    found = network.restore(held_out.served, same_top1=False)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(500), atol=1e-5, rtol=0)
    assert distance(found, held_out.clean) < 0.6 * distance(held_out.served, held_out.clean)


@pytest.mark.parametrize(
    "spec", ["d_dae:rows=3000,epochs=20,lr=0.05,shadows=2", "d_dae_plus:rows=3000,epochs=20,lr=0.05"]
)
def test_answers_come_closer_to_the_victims_clean_ones(spec: str, loot: Callable) -> None:
    take = loot("reverse_sigmoid:beta=0.9", 200)
    found = take.recovered(spec)
    assert found.images is take.transfer.images
    assert take.distance(found.targets) < 0.8 * take.distance()


def test_an_oracles_rows_restore_better_than_shadows(loot: Callable) -> None:
    take = loot("reverse_sigmoid:beta=0.9", 200)
    means = "rows=2000,epochs=20,lr=0.05"
    shadows, oracle = (take.recovered(f"d_dae:{means},shadows=1,prior={prior}") for prior in ("shadows", "oracle"))
    assert take.distance(oracle.targets) < take.distance(shadows.targets)


def test_the_served_top_class_stays_first_where_the_defense_keeps_it() -> None:
    network = Restorer(4, seed=0)
    rows = torch.softmax(3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    free, kept = (network.restore(rows, same_top1=same) for same in (False, True))
    assert not torch.equal(free.argmax(dim=1), rows.argmax(dim=1))
    assert torch.equal(kept.argmax(dim=1), rows.argmax(dim=1))
    assert torch.equal(kept.sort(dim=1).values, free.sort(dim=1).values)
    right = free.argmax(dim=1) == rows.argmax(dim=1)
    assert torch.equal(kept[right], free[right])


@pytest.mark.parametrize(
    ("classes", "hidden"), [(10, [128, 64]), (43, [512, 256]), (100, [1024, 512]), (200, [2048, 1024])]
)
def test_widths_are_as_published(classes: int, hidden: list[int]) -> None:
    network = Restorer(classes, seed=0)
    linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    assert [module.out_features for module in linear] == [*hidden, classes]


def test_weights_depend_on_the_seed_alone_and_no_global_draw_is_made() -> None:
    state = torch.get_rng_state()
    first, again, other = (Restorer(10, seed=seed).state_dict()["body.0.0.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_loss_worked_out_by_hand() -> None:
    rows, clean = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[1.0, 0.0], [0.8, 0.2]])
    assert float(mean_l1(torch.nn.Identity(), rows, clean)) == pytest.approx((1.0 + 0.2) / 2)


@pytest.mark.parametrize("name", ["d_dae", "d_dae_plus"])
@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [("rows", 1, "at least 2"), ("epochs", 0, "at least 1"), ("lr", 0.0, "positive"), ("shadows", 0, "at least 1")],
)
def test_impossible_parameters_are_refused(name: str, parameter: str, value: float, words: str) -> None:
    from modelmoat.attacks import RECOVERIES

    with pytest.raises(OptionError, match=f"{name}:{parameter}={value}: expected.*{words}"):
        RECOVERIES.create(name, **{parameter: value})
