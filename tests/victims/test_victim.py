from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelmoat.core.errors import DataError, InvalidAnswer, OptionError
from modelmoat.models import TorchPredictor, create_network
from modelmoat.victims import Victim
from modelmoat.victims import victim as victim_module

MakeFixed = Callable[[Callable[[Tensor], Tensor]], Any]


def real_victim(**options: Any) -> Victim:
    network = create_network("small_cnn", num_classes=5, input_shape=(1, 8, 8), seed=0)
    return Victim(TorchPredictor(network), **options)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_answers_are_the_softmax_of_the_scores(predictor: Any, inputs: Tensor) -> None:
    answers = Victim(predictor).query(inputs)
    scores = inputs.flatten(1)[:, :3].double() * 4
    expected = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
    assert torch.allclose(answers.values.double(), expected, atol=1e-6)
    assert answers.values.dtype == torch.float32
    assert answers.kind == "probabilities"


def test_probabilities_of_a_model_pass_as_they_are(predictor: Any, inputs: Tensor) -> None:
    rows = torch.softmax(inputs.flatten(1)[:, :3], dim=1)
    predictor.outputs, predictor.predict = "probabilities", lambda _: rows
    assert torch.equal(Victim(predictor).query(inputs).values, rows)


@pytest.mark.parametrize("output", ["probabilities", "top2", "label"])
def test_an_answer_does_not_depend_on_its_neighbors(images: Tensor, output: str) -> None:
    together = real_victim(output=output).query(images).values
    victim = real_victim(output=output)
    alone = torch.cat([victim.query(image[None]).values for image in images])
    assert torch.allclose(together, alone, atol=1e-6)
    assert victim.ledger.sent == victim.ledger.unique == 9


def test_bytes_and_floats_are_the_same_query(images: Tensor) -> None:
    victim = real_victim()
    first = victim.query(images).values
    second = victim.query(images.double() / 255).values
    assert torch.equal(first, second)
    assert (victim.ledger.sent, victim.ledger.unique) == (18, 9)


def test_long_queries_are_cut_into_batches(predictor: Any, inputs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = Victim(predictor)
    expected = victim.query(inputs).values
    monkeypatch.setattr(victim_module, "BATCH", 5)
    assert torch.equal(victim.query(inputs).values, expected)
    assert torch.equal(victim.serve(inputs).values, expected)
    assert torch.equal(victim.clean(inputs), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (torch.rand(2, 1, 2), r"inputs of shape \(2, 1, 2\): expected \[N, C, H, W\]"),
        (torch.rand(0, 1, 2, 2), r"inputs of shape \(0, 1, 2, 2\): expected .* at least one image"),
        (torch.rand(2, 3, 2, 2), r"inputs of shape 3x2x2: the victim takes 1x2x2 .*fix: load data with grey$"),
        (torch.rand(2, 1, 4, 4), r"inputs of shape 1x4x4: .*with size=2$"),
        (torch.rand(2, 3, 4, 4), r"with grey,size=2$"),
        (torch.full((2, 1, 2, 2), 1.01), r"inputs from 1\.01 to 1\.01: expected pixels in \[0, 1\], or uint8"),
        (torch.full((2, 1, 2, 2), -1e-3), r"inputs from -0\.001 to -0\.001"),
        (torch.tensor([0.5, 0.5, float("nan"), 0.5]).reshape(1, 1, 2, 2), r"inputs from nan to nan"),
        (torch.full((1, 1, 2, 2), float("inf")), r"inputs from inf to inf"),
    ],
)
def test_inputs_that_the_victim_does_not_take_are_refused(predictor: Any, changed: Tensor, message: str) -> None:
    victim = Victim(predictor)
    for ask in (victim.query, victim.serve, victim.clean):
        with pytest.raises(DataError, match=message):
            ask(changed)
    assert victim.ledger.sent == predictor.asked == 0


def test_an_input_at_the_limits_of_the_range_is_taken(predictor: Any) -> None:
    assert len(Victim(predictor).query(torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 1, 2, 2))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows * 1.01, r"defense 'fixed' returned rows off the simplex: .*sum off by 0\.01"),
        (lambda rows: rows - torch.tensor([0.6, -0.3, -0.3]), r"off the simplex: smallest entry -0\."),
        (lambda rows: rows[:, :2], r"defense 'fixed' returned shape \(12, 2\): expected \(12, 3\)"),
        (lambda rows: rows[:-1], r"returned shape \(11, 3\): expected \(12, 3\)"),
        (lambda rows: rows * float("nan"), r"off the simplex: smallest entry nan"),
    ],
)
def test_a_defense_that_leaves_the_simplex_is_refused(
    predictor: Any, inputs: Tensor, fixed: MakeFixed, change: Callable[[Tensor], Tensor], message: str
) -> None:
    victim = Victim(predictor, defense=fixed(change))
    with pytest.raises(InvalidAnswer, match=message):
        victim.query(inputs)
    assert victim.ledger.sent == 0


def test_a_defense_changes_what_is_served_before_the_format_cuts_it(
    predictor: Any, inputs: Tensor, fixed: MakeFixed
) -> None:
    victim = Victim(predictor, defense=fixed(lambda rows: rows.roll(1, dims=1)), output="top2")
    clean = Victim(predictor).query(inputs).values
    expected = clean.roll(1, dims=1)
    expected = expected.where(expected > expected.min(dim=1, keepdim=True).values, torch.zeros(()))
    assert torch.equal(victim.query(inputs).values, expected)
    assert torch.equal(victim.clean(inputs), clean)


def test_a_defense_sees_the_inputs_the_scores_and_the_account(predictor: Any, inputs: Tensor, fixed: MakeFixed) -> None:
    seen: list[Any] = []
    defense = fixed(lambda rows: rows)
    defense.respond = lambda clean: seen.append(clean) or clean.probabilities
    Victim(predictor, defense=defense).query(inputs, "ann")
    assert seen[0].account == "ann"
    assert torch.equal(seen[0].inputs, inputs)
    assert torch.equal(seen[0].logits.softmax(1), seen[0].probabilities)


def test_a_defense_with_state_keeps_accounts_apart(
    predictor: Any, inputs: Tensor, turnstile: Callable[[], Any]
) -> None:
    victim = Victim(predictor, defense=turnstile())
    clean = victim.clean(inputs)
    assert torch.equal(victim.query(inputs[:2], "ann").values, torch.stack([clean[0], clean[1].roll(1)]))
    assert torch.equal(victim.query(inputs[:2], "bob").values, torch.stack([clean[0], clean[1].roll(1)]))
    assert torch.equal(victim.query(inputs[:1], "ann").values, clean[:1].roll(2, dims=1))


def test_serving_and_measuring_are_not_counted(predictor: Any, inputs: Tensor) -> None:
    victim = Victim(predictor, output="label").with_ledger(3)
    served = victim.serve(inputs)
    victim.clean(inputs)
    assert (victim.ledger.sent, victim.ledger.left, victim.ledger.by_account) == (0, 3, {})
    assert served.kind == "label"
    assert torch.equal(served.values, Victim(predictor, output="label").query(inputs).values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_gives_no_numbers_is_refused(bad: float) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    nn.init.constant_(network[1].weight, 1.0)
    victim = Victim(TorchPredictor(network, input_shape=(1, 2, 2), outputs="logits", num_classes=3))
    with torch.no_grad():
        network[1].weight[0, 0] = bad
    with pytest.raises(InvalidAnswer, match=r"model 'memory' gave NaN or infinite scores for 2 of 2 inputs; .*fix"):
        victim.query(torch.full((2, 1, 2, 2), 0.5))
    assert victim.ledger.sent == 0


def test_more_classes_than_there_are_cannot_be_asked_for(predictor: Any, inputs: Tensor) -> None:
    victim = Victim(predictor, output="top4")
    with pytest.raises(OptionError, match="output top4: the victim has 3 classes"):
        victim.query(inputs)
    assert victim.ledger.sent == 0


def test_a_fresh_ledger_starts_at_nothing_and_leaves_the_old_one(predictor: Any, inputs: Tensor) -> None:
    victim = Victim(predictor, output="top2")
    victim.query(inputs)
    fresh = victim.with_ledger(3)
    fresh.query(inputs[:1])
    assert (victim.ledger.sent, fresh.ledger.sent, fresh.ledger.left) == (12, 1, 2)
    assert str(fresh.output) == "top2"


def test_the_owner_of_a_journal_is_all_that_answers_depend_on(predictor: Any, turnstile: Callable[[], Any]) -> None:
    plain = Victim(predictor).owner()
    assert plain == {"victim": "0123456789abcdef", "defense": "none", "output": "probabilities", "classes": 3}
    defended = Victim(predictor, defense=turnstile(), output="top2").owner()
    assert defended == plain | {"defense": "turnstile", "output": "top2"}
