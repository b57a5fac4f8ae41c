"""What every recovery promises, on a strategy that draws from a pool and on one that crafts its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from modelmoat.attacks import RECOVERIES, parse_attack
from modelmoat.attacks.recoveries import Repeated
from modelmoat.core.errors import BudgetExhausted, OptionError

CHEAP = {
    "accounts": "accounts:count=3",
    "averaging": "averaging:copies=2",
    "confidence": "confidence:least=0.3",
    "d_dae": "d_dae:epochs=1,shadows=1,rows=50",
    "d_dae_plus": "d_dae_plus:epochs=1,rounds=1,rows=100",
    "identify": "identify:candidates=(none;rounding:decimals=1),sets=2,size=5",
    "inverse": "inverse",
    "label_only": "label_only",
    "latest": "latest:share=0.5",
    "majority_vote": "majority_vote:copies=2",
    "partial_bayes": "partial_bayes:rows=200,rounds=1",
    "queen_inverse": "queen_inverse:shadows=1,epochs=1",
    "temperature": "temperature",
    "transition": "transition",
}
DEFENSES = {"inverse": "reverse_sigmoid:beta=0.3", "queen_inverse": "top_k:k=4", "identify": "rounding:decimals=1"}
STRATEGIES = {"knockoff": "knockoff", "jbda_tr": "jbda_tr:seeds=6,round_epochs=1,iterations=2"}
OUTPUTS = {"probabilities": "probabilities", "top-k": "top3", "label": "label"}
NAMES = RECOVERIES.names()

every_recovery = pytest.mark.parametrize("name", NAMES)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture
def rob(steal: Callable) -> Callable:
    """Attack with a cheap recovery the defense that it is meant for."""

    def run(strategy: str, name: str, budgets: list[int], **options: Any) -> Any:
        attack = parse_attack(f"{STRATEGIES[strategy]}+{CHEAP[name]}")
        return steal(attack, budgets, **({"defense": DEFENSES.get(name, "dcp:beta=0.9")} | options))

    return run


def test_the_table_is_complete() -> None:
    assert list(CHEAP) == NAMES


@every_strategy
@every_recovery
def test_every_copy_is_charged_and_no_budget_overrun(name: str, strategy: str, rob: Callable) -> None:
    heist = rob(strategy, name, [12, 20])  # without a limit, so that overspending would show
    assert [theft.budget for theft in heist.thefts] == [12, 20]
    assert [theft.sent for theft in heist.thefts] == [12, 20]
    assert heist.victim.ledger.sent == len(heist.sent) == heist.answered == 20
    assert heist.thefts[-1].unique == len(torch.unique(heist.sent, dim=0))
    if strategy == "knockoff" and not issubclass(RECOVERIES.get(name), Repeated):
        assert heist.thefts[-1].unique == 20
    assert all(torch.isfinite(value).all() for value in heist.weights().values())


@every_recovery
def test_the_largest_budget_is_enough(name: str, rob: Callable) -> None:
    assert rob("knockoff", name, [12, 20], limit=20).victim.ledger.left == 0
    with pytest.raises(BudgetExhausted):
        rob("knockoff", name, [20], limit=19)


@every_strategy
@every_recovery
def test_a_seed_repeats_and_larger_budgets_change_nothing_below_them(
    name: str, strategy: str, rob: Callable, same: Callable
) -> None:
    alone, both = rob(strategy, name, [12], seed=3), rob(strategy, name, [12, 20], seed=3)
    assert torch.equal(both.sent[:12], alone.sent)
    assert same(both.weights(0), alone.weights())
    assert not same(both.weights(0), both.weights(1))
    other = rob(strategy, name, [12], seed=4)
    assert not torch.equal(other.sent, alone.sent)
    assert not same(other.weights(), alone.weights())


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in NAMES for kind in sorted(RECOVERIES.get(name).outputs)]
)
def test_declared_output_kinds_are_accepted(name: str, kind: str, rob: Callable) -> None:
    heist = rob("knockoff", name, [12], output=OUTPUTS[kind])
    assert heist.thefts[0].sent == 12
    assert all(torch.isfinite(value).all() for value in heist.weights().values())


@every_recovery
def test_other_output_kinds_are_not_declared(name: str) -> None:
    attack = parse_attack(f"knockoff+{CHEAP[name]}")
    assert attack.outputs == RECOVERIES.get(name).outputs


@every_recovery
def test_an_interrupted_attack_goes_on_and_asks_only_for_the_rest(
    name: str, tmp_path: Path, rob: Callable, steal: Callable, same: Callable
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        assert 0 < done <= total
        if stage == "clone at 12" or stage.startswith("clone at 6"):
            raise KeyboardInterrupt

    journal = tmp_path / "answers.journal"
    whole = rob("knockoff", name, [12, 20])
    with pytest.raises(KeyboardInterrupt):
        rob("knockoff", name, [12, 20], journal=journal, progress=stop)
    paid = steal.last.answered
    assert paid == 12
    resumed = rob("knockoff", name, [12, 20], journal=journal)
    assert resumed.answered == 8
    assert torch.equal(resumed.sent, whole.sent)
    assert same(resumed.weights(0), whole.weights(0))
    assert same(resumed.weights(1), whole.weights(1))


def other_value(hint: Any, value: Any, name: str) -> Any:
    if name == "candidates":
        return "none;dcp:beta=0.3,gamma=0.1"
    if name == "assumed":
        return "dcp:beta=0.3,gamma=0.1+rounding"
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    return {int: lambda: value + 1, float: lambda: 0.9 * value}[type(value)]()


@every_recovery
def test_the_spec_builds_the_same_recovery(name: str) -> None:
    cls = RECOVERIES.get(name)
    assert RECOVERIES.parse(name) == cls()
    assert cls().spec == name
    for item in fields(cls):
        changed = cls(**{item.name: other_value(get_type_hints(cls)[item.name], item.default, item.name)})
        assert RECOVERIES.parse(changed.spec) == changed != cls()
        attack = parse_attack(f"knockoff+{changed.spec}")
        assert attack.recoveries == (changed,)
        assert parse_attack(attack.spec) == attack


@every_recovery
def test_facts_for_listings_are_there(name: str) -> None:
    cls = RECOVERIES.get(name)
    assert cls.outputs <= set(OUTPUTS)
    assert cls.knows
    assert cls.paper
    assert cls.summary().endswith(".")
    attack = parse_attack(f"knockoff+{name}")
    assert attack.defense_aware
    assert f"{name}: " in attack.knowledge()


@every_recovery
@pytest.mark.parametrize("budgets", [[], [0]], ids=str)
def test_impossible_budgets_are_refused_before_anything_is_asked(
    name: str, budgets: list[int], rob: Callable, steal: Callable
) -> None:
    with pytest.raises(OptionError, match="at least 1 query"):
        rob("knockoff", name, budgets)
    assert steal.last.answered == 0


@pytest.mark.parametrize("strategy", ["copycat", "e3", "mixmatch", "fixmatch", "s4l"])
def test_a_loss_of_its_own_is_refused_where_a_strategy_has_one_too(strategy: str) -> None:
    losses = [name for name in RECOVERIES.names() if RECOVERIES.get(name).changes_loss]
    assert "transition" in losses
    for name in losses:
        with pytest.raises(
            OptionError, match=f"'{name}.*' changes the loss, and '{strategy}' trains its clones in its"
        ):
            parse_attack(f"{strategy}+{name}")
    assert parse_attack(f"{strategy}+averaging").spec
    assert parse_attack("copycat:balance=false+transition").spec
