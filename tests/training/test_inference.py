from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modelmoat.data import ImageSet
from modelmoat.training import accuracy, as_float, pixel_statistics, predict_logits, predict_top1, statistics

MakeNetwork = Callable[[], nn.Module]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 10, 41, 100])
def test_logits_equal_one_forward_pass_in_evaluation_mode(
    make_network: MakeNetwork, pixels: Tensor, batch_size: int, training: bool
) -> None:
    network = make_network().train(training)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    logits = predict_logits(network, pixels, batch_size=batch_size)
    assert {module.training for module in network.modules()} == {training}
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not logits.requires_grad
    with torch.no_grad():
        expected = network.eval()(pixels.float() / 255)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.equal(predict_top1(network, pixels, batch_size=batch_size), expected.argmax(1))


def test_float_images_pass_as_they_are(make_network: MakeNetwork, pixels: Tensor) -> None:
    network = make_network()
    assert torch.equal(predict_logits(network, pixels), predict_logits(network, pixels.float() / 255))


def test_accuracy_is_the_share_of_hits() -> None:
    images = torch.eye(4).reshape(4, 4, 1, 1)
    network = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Flatten())
    nn.init.dirac_(network[0].weight)
    assert accuracy(network, images, torch.tensor([0, 1, 2, 0])) == 0.75


def test_uint8_becomes_shares_without_touching_the_pixels(pixels: Tensor) -> None:
    before = pixels.clone()
    assert torch.equal(as_float(pixels), before.float() / 255)
    assert torch.equal(pixels, before)
    floats = torch.rand(3)
    assert as_float(floats) is floats


def image_set(pixels: Tensor) -> ImageSet:
    return ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("only",), "test")


def test_statistics_are_those_of_all_pixels_of_a_channel(pixels: Tensor) -> None:
    mean, std = pixel_statistics(image_set(pixels))
    values = pixels.double().div(255).permute(1, 0, 2, 3).reshape(3, -1)
    assert mean == pytest.approx(values.mean(1).tolist(), abs=1e-7)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), abs=1e-7)


def test_a_constant_channel_can_still_be_divided_by() -> None:
    _, std = pixel_statistics(image_set(torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)))
    assert std == (1e-3,)


def test_large_sets_are_measured_on_rows_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_SAMPLE", 4)
    images = torch.arange(10, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    mean, _ = pixel_statistics(image_set(images))
    assert mean[0] * 255 == pytest.approx((0 + 2 + 5 + 7) / 4)
