"""What every registered attack promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from modelmoat.attacks import ATTACKS, Attack, parse_attack
from modelmoat.attacks._stream import StreamAttack
from modelmoat.core.errors import BudgetExhausted, OptionError
from modelmoat.data import ImageSet
from modelmoat.victims import Answers
from modelmoat.victims.journal import read_journal

NAMES = ATTACKS.names()
TARGETS = ["soft", "label"]
SEEDS = 6  # of attacks that start from seeds, see the fixture "quick"
OUTPUTS = {
    "probabilities": "probabilities",
    "top-k": "top3",
    "label": "label",
    "probabilities+explanation": "probabilities+explanation",
}

SENDERS = [name for name in NAMES if ATTACKS.get(name).sends]
every_attack = pytest.mark.parametrize("name", SENDERS)
every_method = pytest.mark.parametrize("name", NAMES)
every_target = pytest.mark.parametrize("targets", TARGETS)


@every_attack
@pytest.mark.parametrize(
    ("targets", "budgets"),
    [("soft", budgets) for budgets in ((1,), (SEEDS - 2,), (SEEDS,), (20,))]
    + [(targets, (SEEDS - 2, SEEDS, 20)) for targets in TARGETS],
    ids=str,
)
def test_every_budget_is_spent_exactly(
    name: str, targets: str, budgets: Sequence[int], steal: Callable, quick: Callable
) -> None:
    heist = steal(quick(name, targets=targets), budgets)  # without a limit, so that overspending would show
    assert [theft.budget for theft in heist.thefts] == list(budgets)
    assert [theft.sent for theft in heist.thefts] == list(budgets)
    assert heist.victim.ledger.sent == len(heist.sent) == budgets[-1]
    assert heist.victim.ledger.by_account == {"attacker": budgets[-1]}
    for theft in heist.thefts:
        assert theft.unique == len(torch.unique(heist.sent[: theft.budget], dim=0))
        assert theft.clone is not None
        assert theft.steps >= (1 if issubclass(ATTACKS.get(name), StreamAttack) else 5)
        assert not theft.clone.training


@every_attack
def test_the_largest_budget_is_enough(name: str, steal: Callable, quick: Callable) -> None:
    assert steal(quick(name), [4, 20], limit=20).victim.ledger.left == 0
    with pytest.raises(BudgetExhausted):
        steal(quick(name), [20], limit=19)


@every_attack
@every_target
def test_a_seed_repeats_and_another_asks_other_inputs(
    name: str, targets: str, steal: Callable, quick: Callable, same: Callable
) -> None:
    first, again, other = (steal(quick(name, targets=targets), [20], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.sent, again.sent)
    assert same(first.weights(), again.weights())
    assert not torch.equal(first.sent, other.sent)
    assert not same(first.weights(), other.weights())


@every_attack
@every_target
@pytest.mark.parametrize("small", [4, 9])
def test_larger_budgets_change_nothing_below_them(
    name: str, targets: str, small: int, steal: Callable, quick: Callable, same: Callable
) -> None:
    alone = steal(quick(name, targets=targets), [small])
    both = steal(quick(name, targets=targets), [20, small, 20])
    assert [theft.budget for theft in both.thefts] == [small, 20]
    assert torch.equal(both.sent[:small], alone.sent)
    assert same(both.weights(0), alone.weights())
    assert not same(both.weights(0), both.weights(1))


@every_attack
def test_a_clone_that_nobody_wants_is_not_trained_but_paid(
    name: str, steal: Callable, quick: Callable, same: Callable
) -> None:
    every = steal(quick(name), [9, 20])
    last = steal(quick(name), [9, 20], wanted=frozenset({20}))
    assert last.thefts[0].clone is None
    assert last.thefts[0].sent == 9
    assert torch.equal(last.sent, every.sent)
    assert same(last.weights(), every.weights())


@every_target
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in SENDERS for kind in sorted(ATTACKS.get(name).outputs)]
)
def test_declared_output_kinds_are_accepted(
    name: str, kind: str, targets: str, steal: Callable, quick: Callable
) -> None:
    heist = steal(quick(name, targets=targets), [9], output=OUTPUTS[kind])
    assert heist.thefts[0].sent == 9
    assert all(torch.isfinite(value).all() for value in heist.weights().values())


@every_attack
def test_soft_targets_differ_from_labels_only_where_answers_are_soft(
    name: str, steal: Callable, quick: Callable, same: Callable
) -> None:
    for kind in sorted(ATTACKS.get(name).outputs):
        output, equal = OUTPUTS[kind], kind == "label"
        soft, label = (steal(quick(name, targets=targets), [SEEDS], output=output) for targets in TARGETS)
        assert torch.equal(soft.sent, label.sent)
        assert same(soft.weights(), label.weights()) is equal, output


@every_attack
def test_targets_are_labels_or_whole_distributions(name: str, quick: Callable) -> None:
    rows = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]])
    top2 = Answers("top-k", torch.tensor([[0.0, 0.6, 0.2, 0.0], [0.4, 0.3, 0.0, 0.0]]))
    soft, label = quick(name, targets="soft"), quick(name, targets="label")
    assert torch.equal(soft.learn(Answers("probabilities", rows)), rows)
    torch.testing.assert_close(soft.learn(top2), torch.tensor([[0, 0.75, 0.25, 0], [4 / 7, 3 / 7, 0, 0]]))
    for answers in (Answers("probabilities", rows), top2):
        assert label.learn(answers).tolist() == [1, 0]
    one_hot = Answers("label", torch.eye(4)[[2, 3]])
    assert soft.learn(one_hot).tolist() == label.learn(one_hot).tolist() == [2, 3]


def other_value(hint: Any, value: Any) -> Any:
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if value is None:
        return 2.0
    return {int: lambda: value + 1, float: lambda: 0.9 * value or 0.5, bool: lambda: not value}[type(value)]()


@every_method
def test_the_spec_builds_the_same_attack(name: str) -> None:
    cls = ATTACKS.get(name)
    assert parse_attack(name) == cls()
    assert cls().spec == name
    for item in fields(cls):
        changed = cls(**{item.name: other_value(get_type_hints(cls)[item.name], item.default)})
        assert changed != cls()
        assert item.name in changed.spec
        assert parse_attack(changed.spec) == changed
        assert f"{item.name}={getattr(changed, item.name)!r}" in repr(changed)


@every_method
def test_facts_for_listings_are_there(name: str) -> None:
    cls = ATTACKS.get(name)
    assert cls.outputs
    assert cls.outputs <= set(OUTPUTS)
    assert "not the victim" in cls.knows
    assert cls.paper
    assert cls.summary().endswith(".")


@every_method
@pytest.mark.parametrize("budgets", [[], [0], [5, -1]], ids=str)
def test_impossible_budgets_are_refused_before_anything_is_asked(
    name: str, budgets: list[int], steal: Callable, quick: Callable
) -> None:
    with pytest.raises(OptionError, match="at least 1 query"):
        steal(quick(name), budgets)
    assert steal.last.answered == 0


@pytest.mark.parametrize("name", [name for name in NAMES if "seeds" in ATTACKS.get(name)().parameters()])
def test_more_seeds_than_the_pool_has_are_refused(name: str, steal: Callable, quick: Callable, pool: ImageSet) -> None:
    few = pool.take(torch.arange(SEEDS - 1))
    with pytest.raises(OptionError, match=rf"{name}:seeds=6: the pool has 5 images; fix: {name}:seeds=5"):
        steal(quick(name), [3], pool=few)
    assert steal.last.answered == 0
    exact = steal(quick(name), [3 * SEEDS], pool=pool.take(torch.arange(SEEDS)))  # crafted inputs need no pool
    assert exact.thefts[0].sent == 3 * SEEDS


class StopAt:
    """Raises KeyboardInterrupt at the n-th report of stages that begin with some words."""

    def __init__(self, words: str, count: int) -> None:
        self._words, self._left = words, count

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert 0 < done <= total
        self._left -= stage.startswith(self._words)
        if not self._left:
            raise KeyboardInterrupt


@every_attack
@pytest.mark.parametrize(
    ("targets", "stage", "count"), [("soft", "queries", 1), ("label", "clone at 9", 1), ("soft", "", 4)]
)
def test_an_interrupted_attack_goes_on_and_asks_only_for_the_rest(
    name: str,
    targets: str,
    stage: str,
    count: int,
    tmp_path: Path,
    steal: Callable,
    quick: Callable,
    same: Callable,
) -> None:
    attack: Attack = quick(name, targets=targets)
    journal = tmp_path / "answers.journal"
    whole = steal(attack, [9, 20], limit=20)
    with pytest.raises(KeyboardInterrupt):
        steal(attack, [9, 20], limit=20, journal=journal, progress=StopAt(stage, count))
    paid = steal.last.answered
    assert 0 < paid <= 20
    resumed = steal(attack, [9, 20], limit=20, journal=journal)
    assert paid + resumed.answered == 20
    assert torch.equal(resumed.sent, whole.sent)
    assert [(theft.sent, theft.unique) for theft in resumed.thefts] == [(t.sent, t.unique) for t in whole.thefts]
    assert same(resumed.weights(0), whole.weights(0))
    assert same(resumed.weights(1), whole.weights(1))
    _, frames, _ = read_journal(journal)
    assert sum(len(frame.rows) for frame in frames) == 20
    assert steal(attack, [9, 20], limit=20, journal=journal).answered == 0
