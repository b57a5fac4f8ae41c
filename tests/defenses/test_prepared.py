"""The contract around prepared defenses: what is refused, what a saved state says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelmoat.core.errors import DataError, InvalidAnswer, ModelError, OptionError, UsageError
from modelmoat.defenses import Preparation, PreparedModule, parse_defense, saved_state
from modelmoat.defenses.prepared import FACTS, read_facts
from modelmoat.victims import CleanAnswers

PREPARATION = Callable[..., Preparation]
ASKED = Callable[..., CleanAnswers]
READY = ["rounding", "mad", "modelguard_s", "modelguard_w", "random_noise:repeats=fresh", "rounding+mad"]


def answers(rows: Tensor, inputs: int | None = None) -> CleanAnswers:
    return CleanAnswers(rows, torch.zeros(len(rows) if inputs is None else inputs, 1, 8, 8), "someone")


BAD = {
    "nan": (torch.tensor([[0.5, torch.nan, 0.5]]), None, InvalidAnswer, "NaN or infinite probabilities in 1 of 1 rows"),
    "infinite": (torch.tensor([[torch.inf, 0, 0]]), None, InvalidAnswer, "NaN or infinite"),
    "logits": (
        torch.tensor([[3.0, -1.0, 2.0]]),
        None,
        InvalidAnswer,
        "smallest entry -1, .*give probabilities, not logits",
    ),
    "sums": (torch.full((2, 3), 0.4), None, InvalidAnswer, "sums off by up to 0.2"),
    "one class": (torch.ones(2, 1), None, InvalidAnswer, r"shape \[2, 1\].*at least 2 classes"),
    "one row": (torch.ones(3) / 3, None, InvalidAnswer, r"shape \[3\]"),
    "labels": (torch.zeros(2, 3, dtype=torch.int64), None, InvalidAnswer, "int64; expected floats"),
    "empty": (torch.zeros(0, 3), None, DataError, "0 answers to 0 inputs; expected at least one"),
    "unequal": (torch.full((2, 3), 1 / 3), 5, DataError, "2 answers to 5 inputs"),
}


@pytest.mark.parametrize("spec", READY)
@pytest.mark.parametrize("kind", list(BAD))
def test_what_is_no_answer_is_refused(spec: str, kind: str, preparation: PREPARATION) -> None:
    rows, inputs, error, words = BAD[kind]
    ready = parse_defense(spec).prepare(preparation(3))
    with pytest.raises(error, match=words) as caught:
        ready.respond(answers(rows, inputs))
    assert isinstance(caught.value, UsageError)
    assert f"'{spec}'" in str(caught.value)
    assert "fix:" in str(caught.value)


@pytest.mark.parametrize("spec", ["mad", "modelguard_s", "random_noise:repeats=fresh"])
def test_answers_with_other_classes_are_refused(spec: str, preparation: PREPARATION) -> None:
    ready = parse_defense(spec).prepare(preparation(3))
    with pytest.raises(ModelError, match="prepared for 3 classes and got answers with 4; fix"):
        ready.respond(answers(torch.full((2, 4), 0.25)))


@pytest.mark.parametrize("spec", ["mad", "modelguard_s", "random_noise:repeats=fresh"])
def test_a_defense_must_be_prepared_before_it_answers(spec: str) -> None:
    with pytest.raises(OptionError, match="not ready to answer; fix: call prepare"):
        parse_defense(spec).respond(answers(torch.full((2, 3), 1 / 3)))


def test_state_is_bound_to_defense_parameters_and_victim(preparation: PREPARATION) -> None:
    setting = preparation(10)
    state = saved_state(parse_defense("mad").prepare(setting))
    for spec, victim, words in (
        ("mad:epsilon=0.3", setting.predictor, "of defense 'mad', not 'mad:epsilon=0.3'"),
        ("mad_argmax", setting.predictor, "of defense 'mad', not 'mad_argmax'"),
        ("mad", preparation(10, victim_seed=1).predictor, "of victim with digest '.*', not '.*'; fix: restore it"),
        ("mad", preparation(3).predictor, "of victim with digest"),
        ("rounding", setting.predictor, "'rounding' keeps no state, but .* tensors were given"),
    ):
        with pytest.raises(ModelError, match=words):
            parse_defense(spec).restore(victim, state)


def test_damaged_state_is_refused(preparation: PREPARATION) -> None:
    setting, mad = preparation(10), parse_defense("mad")
    state = saved_state(mad.prepare(setting))
    without = {name: value for name, value in state.items() if name != FACTS}
    short = {name: value for name, value in state.items() if "head" not in name}
    wrong = {**state, "network.body.head.bias": torch.zeros(4)}
    garbled = {**state, FACTS: state[FACTS][:-3]}
    number = {**state, FACTS: torch.tensor([49], dtype=torch.uint8)}
    for tensors, words in (
        ({}, "these 0 tensors are no saved state"),
        (without, "no readable '_extra_state'"),
        (garbled, "no readable '_extra_state'"),
        (number, "holds int, expected a JSON object"),
        (short, "does not fit defense 'mad'.*Missing.*fix: prepare it again"),
        (wrong, "does not fit defense 'mad'.*size mismatch"),
    ):
        with pytest.raises(ModelError, match=words):
            mad.restore(setting.predictor, tensors)
    facts = read_facts(state, "mad")
    assert facts["arch"] == "small_cnn"
    ready = mad.prepare(preparation(10, victim_seed=1))
    with pytest.raises(ModelError, match="of victim with digest"):
        ready.load_state_dict(state)  # type: ignore[attr-defined]


def test_state_needs_neither_images_nor_training(
    tmp_path: Path, preparation: PREPARATION, asked: ASKED, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = preparation(10)
    defense = parse_defense("misinformation:epochs=1,tau=1+grad_redirection:epochs=1")
    ready = defense.prepare(setting)
    save_file(saved_state(ready), tmp_path / "state.safetensors")
    for module in ("misinformation", "_surrogate"):
        monkeypatch.setattr(f"modelmoat.defenses.{module}.fit", None)
    restored = defense.restore(setting.predictor, load_file(tmp_path / "state.safetensors"))
    clean = asked(setting)
    assert torch.equal(restored.respond(clean), ready.respond(clean))
    assert not any(parameter.requires_grad for parameter in restored.parameters())  # type: ignore[attr-defined]


def test_a_responder_with_hidden_state_cannot_be_saved() -> None:
    class Hidden:
        spec, stateful = "hidden", True

        def respond(self, clean: CleanAnswers) -> Tensor:
            return clean.probabilities

    with pytest.raises(ModelError, match="'hidden' cannot be saved"):
        saved_state(Hidden())


def test_large_inputs_reach_networks_in_batches_that_fit(
    preparation: PREPARATION, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Watching(PreparedModule):
        def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return probabilities

    monkeypatch.setattr("modelmoat.defenses.prepared._MOST_VALUES", 3 * 64)
    ready = Watching(parse_defense("mad"), preparation(3).predictor)
    rows = torch.softmax(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert torch.equal(ready.respond(answers(rows)), rows)
    ready.network = torch.nn.Linear(1, 1)
    assert torch.equal(ready.respond(answers(rows)), rows)
    assert sizes == [8, 3, 3, 2]


def test_answers_carry_no_gradients(preparation: PREPARATION, asked: ASKED) -> None:
    setting = preparation(10)
    for spec in ("mad", "dcp", "grad_redirection:epochs=1"):
        assert not parse_defense(spec).prepare(setting).respond(asked(setting)).requires_grad


def test_preparing_moves_no_global_random_numbers(preparation: PREPARATION) -> None:
    before = torch.get_rng_state()
    for spec in ("mad", "misinformation:epochs=1", "grad_redirection:epochs=1"):
        parse_defense(spec).prepare(preparation(10))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "spec",
    [
        "mad_argmax+dcp:beta=0.9,keep_top1=true+rounding:decimals=3",
        "mad+misinformation:epochs=1+reverse_sigmoid+top_k:k=4",
        "modelguard_w",
    ],
)
def test_a_victim_with_its_defense_becomes_one_onnx_graph(
    spec: str, tmp_path: Path, preparation: PREPARATION, asked: ASKED
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    setting = preparation(10)
    ready = parse_defense(spec).prepare(setting)

    class Defended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.victim = setting.predictor.network  # type: ignore[attr-defined]
            self.defense = ready

        def forward(self, images: Tensor) -> Tensor:
            return self.defense.forward(torch.softmax(self.victim(images), dim=1), images)  # type: ignore[attr-defined]

    clean = asked(setting)
    batch = torch.export.Dim("batch", min=1)
    path = tmp_path / "defended.onnx"
    torch.onnx.export(
        Defended().eval(), (clean.inputs,), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 16):
        served = session.run(None, {session.get_inputs()[0].name: clean.inputs[:count].numpy()})[0]
        expected = ready.respond(CleanAnswers(clean.probabilities[:count], clean.inputs[:count], "someone"))
        torch.testing.assert_close(torch.from_numpy(served), expected, atol=2e-3, rtol=0)
