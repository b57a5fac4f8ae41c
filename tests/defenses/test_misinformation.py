from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modelmoat.core.errors import DataError, OptionError
from modelmoat.data import ImageSet
from modelmoat.defenses import Preparation, parse_defense
from modelmoat.defenses.misinformation import Misinformation, reverse_cross_entropy
from modelmoat.training import as_float
from modelmoat.victims import CleanAnswers

PREPARATION = Callable[..., Preparation]
ASKED = Callable[..., CleanAnswers]


def test_the_loss_has_the_gradient_of_cross_entropy_upon_log_of_one_minus_p() -> None:
    """The published code computes cross-entropy of log(1 - p + 1e-7), which only adds log(K - 1)."""
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    found, published = scores.clone().float().requires_grad_(), scores.clone().requires_grad_()
    loss = reverse_cross_entropy(torch.nn.Identity(), found, labels)
    other = torch.nn.functional.cross_entropy(torch.log(1 - published.softmax(dim=1) + 1e-7), labels)
    loss.backward()
    other.backward()
    assert found.grad is not None
    assert published.grad is not None
    torch.testing.assert_close(found.grad.double(), published.grad, atol=1e-6, rtol=1e-4)
    assert float((other - loss).detach()) == pytest.approx(float(torch.tensor(4.0).log()), abs=1e-5)


def test_the_loss_is_finite_where_the_network_is_sure() -> None:
    scores = torch.tensor([[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]])
    loss = reverse_cross_entropy(torch.nn.Identity(), scores, torch.tensor([0, 0]))
    assert float(loss) == pytest.approx((200 - float(torch.tensor(2.0).log())) / 2, abs=1e-3)


def test_the_second_network_learns_to_be_wrong(preparation: PREPARATION, many_digits: ImageSet) -> None:
    setting = Preparation(predictor=preparation(10).predictor, train=many_digits)
    trained = Misinformation(epochs=10, lr=0.1).prepare(setting).network
    rows = torch.softmax(trained(as_float(many_digits.images)), dim=1)
    assert float(rows.gather(1, many_digits.labels[:, None]).mean()) < 0.07
    assert float((rows.argmax(dim=1) == many_digits.labels).float().mean()) < 0.03


def test_confident_answers_pass_and_others_are_replaced(preparation: PREPARATION, asked: ASKED) -> None:
    setting = preparation(10)
    ready = Misinformation(epochs=1, tau=0.5).prepare(setting)
    sure, unsure = asked(setting, 8, sharpness=500.0), asked(setting, 8)
    assert sure.probabilities.amax(dim=1).min() > 0.52
    assert unsure.probabilities.amax(dim=1).max() < 0.48
    torch.testing.assert_close(ready.respond(sure), sure.probabilities, atol=1e-6, rtol=0)
    wrong = torch.softmax(ready.network(unsure.inputs), dim=1)
    torch.testing.assert_close(ready.respond(unsure), wrong, atol=1e-6, rtol=0)
    halfway = Misinformation(epochs=1, tau=0.5, nu=10.0).prepare(setting)
    gate = torch.sigmoid(10 * (0.5 - unsure.probabilities.amax(dim=1, keepdim=True)))
    expected = (1 - gate) * unsure.probabilities + gate * wrong
    torch.testing.assert_close(halfway.respond(unsure), expected, atol=1e-6, rtol=0)


def test_images_that_do_not_fit_the_victim_are_refused(preparation: PREPARATION) -> None:
    setting = preparation(10)
    large = ImageSet(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.arange(4), setting.train.class_names, "large")
    wrong = Preparation(predictor=setting.predictor, train=large)
    with pytest.raises(DataError, match=r"images of shape \(1, 16, 16\): victim .* takes \(1, 8, 8\); fix"):
        parse_defense("misinformation").prepare(wrong)
    lonely = Preparation(predictor=setting.predictor, train=setting.train.take(torch.tensor([0])))
    with pytest.raises(DataError, match="1 training images: batch statistics need at least 2"):
        parse_defense("mad").prepare(lonely)


@pytest.mark.parametrize("option", ["tau=1.1", "tau=-0.1", "nu=0", "epochs=0", "lr=0"])
def test_impossible_parameters_are_refused(option: str) -> None:
    with pytest.raises(OptionError, match=f"misinformation:{option.split('=')[0]}"):
        parse_defense(f"misinformation:{option}")
