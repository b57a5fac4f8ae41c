import json

import pytest
import torch
from safetensors.torch import save

from modelmoat.core.errors import ModelError
from modelmoat.models import ModelCard, create_network, load_artifact, load_card, save_model
from modelmoat.models.digests import bytes_digest


def card_of(network, **changes):
    facts = {"class_names": ("a", "b", "c"), "recipe": "standard", "metrics": {"test_accuracy": 0.9}} | changes
    return ModelCard.of(network, **facts)


@pytest.fixture
def saved(tmp_path, network):
    save_model(tmp_path / "m", network, card_of(network, data="digits", data_digests={"test": "ab"}))
    return tmp_path / "m"


def edit_card(directory, **changes):
    path = directory / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_weights(directory, data: bytes):
    (directory / "model.safetensors").write_bytes(data)
    edit_card(directory, weights_digest=bytes_digest(data))


def test_round_trip_gives_the_same_answers_and_card(saved, network, images):
    loaded, card = load_artifact(saved)
    assert torch.equal(loaded(images), network(images))
    assert not loaded.training
    assert card == load_card(saved)
    assert card.data == "digits"
    assert card.metrics == {"test_accuracy": 0.9}
    assert card.mean == pytest.approx((0.3,))
    assert card.weights_digest == bytes_digest((saved / "model.safetensors").read_bytes())
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_same_weights_same_bytes_whatever_the_memory_format(tmp_path, network):
    first = save_model(tmp_path / "a", network, card_of(network))
    second = save_model(tmp_path / "b", network.to(memory_format=torch.channels_last), card_of(network))
    assert first.weights_digest == second.weights_digest


def test_interrupted_save_is_seen(saved, monkeypatch):
    other = create_network("small_cnn", num_classes=3, input_shape=(1, 8, 8), seed=9)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("modelmoat.models.artifact.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, other, card_of(other))
    with pytest.raises(ModelError, match="saving was interrupted"):
        load_artifact(saved)


def test_truncated_weights_are_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cut short"):
        load_artifact(saved)


def test_one_flipped_bit_is_refused(saved):
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="has hash"):
        load_artifact(saved)


def test_a_file_that_is_no_safetensors_is_refused(saved):
    replace_weights(saved, b"not weights at all")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_artifact(saved)


def test_weights_of_another_network_are_refused(saved):
    other = create_network("lenet", num_classes=3, input_shape=(1, 12, 12), seed=0)
    replace_weights(saved, save(dict(other.state_dict())))
    with pytest.raises(ModelError, match="does not fit small_cnn"):
        load_artifact(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "small_cnnn"}, "did you mean 'small_cnn'"),
        ({"input_shape": [3, 8, 8]}, "1 values for 3 channels"),
        ({"num_classes": 4}, "3 class names for 4 classes"),
        ({"num_classes": 4, "class_names": list("abcd")}, "does not fit small_cnn"),
        ({"std": [0.0]}, "above 0"),
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(saved, changes, words):
    edit_card(saved, **changes)
    with pytest.raises(ModelError, match=words):
        load_artifact(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_artifact(saved)


def test_a_card_cut_short_is_refused(saved):
    path = saved / "model.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ModelError, match=r"model\.json"):
        load_card(saved)


@pytest.mark.parametrize("changes", [{"arch": "lenet"}, {"mean": (0.9,)}, {"input_shape": (1, 9, 9)}])
def test_a_card_about_another_network_is_not_saved(tmp_path, network, changes):
    with pytest.raises(ModelError, match="the card says"):
        save_model(tmp_path / "m", network, card_of(network).model_copy(update=changes))
    assert not (tmp_path / "m").exists()
