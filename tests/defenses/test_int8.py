"""Every registered defense works on an int8 victim, whose answers come from a graph without layers to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from modelmoat.data import ImageSet
from modelmoat.defenses import DEFENSES, Preparation, parse_defense, saved_state
from modelmoat.defenses._queen_features import VictimFeatures
from modelmoat.models import ModelCard, Predictor, load_artifact, load_model
from modelmoat.quantization import simulated_form
from modelmoat.training import as_float, predict_logits
from modelmoat.victims.clean import clean_answers

from .test_conformance import CASES, check_promises


@pytest.fixture
def int8(int8_victim: tuple[Path, ModelCard]) -> Predictor:
    return load_model(str(int8_victim[0]))


@pytest.mark.parametrize("name", DEFENSES.names())
def test_it_is_prepared_answers_and_is_restored(
    name: str, int8: Predictor, many_digits: ImageSet, queries: Callable[[int], Tensor]
) -> None:
    defense = parse_defense(CASES[name][0].spec)
    ready = defense.prepare(Preparation(predictor=int8, train=many_digits))
    clean = clean_answers(int8, queries(40), "someone")
    state = load(save(saved_state(ready)))
    served = ready.respond(clean)
    check_promises(defense, clean.probabilities, served)
    if defense.deterministic:
        assert torch.equal(defense.restore(int8, state).respond(clean), served)


def test_features_are_what_its_last_layer_sees(int8: Predictor, many_digits: ImageSet, tiny_victim: Path) -> None:
    features = VictimFeatures(int8, "queen")
    phi = features.read(many_digits)
    assert (phi.shape, phi.dtype) == ((len(many_digits), features.width), torch.float32)
    network, _ = load_artifact(tiny_victim)
    assert torch.equal(features.weight, network.head.weight), "the last layer stays in float32"
    served = int8.predict(as_float(many_digits.images))
    logits = phi @ features.weight.T + network.head.bias.detach()
    simulated = simulated_form(int8)
    assert simulated is not None
    torch.testing.assert_close(logits, predict_logits(simulated, many_digits), atol=1e-5, rtol=0)
    assert (logits - served).abs().mean() < 0.01 * served.std()
    assert (logits.argmax(dim=1) == served.argmax(dim=1)).double().mean() > 0.99
    exact = predict_logits(network, many_digits)
    assert (logits - served).abs().mean() < 0.5 * (exact - served).abs().mean(), "not those of the float32 network"
