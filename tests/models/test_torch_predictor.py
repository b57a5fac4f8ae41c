import pytest
import torch
from torch import nn

from modelmoat.core.errors import InvalidAnswer, ModelError
from modelmoat.models import TorchPredictor, state_digest


class Flat(nn.Module):
    def __init__(self, *tail: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), *tail)

    def forward(self, x):
        return self.body(x)


def test_answers_are_those_of_the_module(network, images):
    predictor = TorchPredictor(network)
    assert predictor.network is network
    assert (predictor.arch, predictor.num_classes, predictor.input_shape) == ("small_cnn", 3, (1, 8, 8))
    torch.testing.assert_close(predictor.predict(images), network(images).detach())
    assert predictor.predict(images).dtype == torch.float32
    assert predictor.predict(images.double()).dtype == torch.float32


def test_a_row_does_not_depend_on_its_neighbors_even_if_someone_trains_the_module(network, images):
    predictor = TorchPredictor(network)
    together = predictor.predict(images)
    network.train()
    alone = torch.cat([predictor.predict(row) for row in images.split(1)])
    torch.testing.assert_close(together, alone)
    assert not network.training


def test_large_requests_run_in_batches(network, images):
    sizes = []
    network.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    answers = TorchPredictor(network).predict(images.repeat(200, 1, 1, 1))
    assert answers.shape == (1400, 3)
    assert sizes == [512, 512, 376]


def test_no_images_no_rows(network):
    assert TorchPredictor(network).predict(torch.empty(0, 1, 8, 8)).shape == (0, 3)


def test_answers_can_be_training_targets(network, images):
    targets = TorchPredictor(network).predict(images)
    student = nn.Linear(64, 3)
    (student(images.flatten(1)) * targets).sum().backward()
    assert student.weight.grad is not None


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.zeros(2, 1, 9, 9), r"takes \[N, 1, 8, 8\]"),
        (torch.zeros(1, 8, 8), "inputs have shape"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "divide bytes by 255"),
    ],
)
def test_wrong_inputs_are_refused(network, inputs, words):
    with pytest.raises(ModelError, match=words):
        TorchPredictor(network).predict(inputs)


def test_classes_of_a_foreign_module_are_measured():
    assert TorchPredictor(Flat(), input_shape=(1, 8, 8)).num_classes == 3
    with pytest.raises(ModelError, match="input=3x32x32"):
        TorchPredictor(Flat())


def test_a_module_that_cannot_take_the_images_is_refused_at_once():
    with pytest.raises(ModelError, match=r"fails on images of shape \[3, 8, 8\]"):
        TorchPredictor(Flat(), input_shape=(3, 8, 8))


def test_probabilities_are_not_taken_for_logits():
    with pytest.raises(ModelError, match="outputs=probabilities"):
        TorchPredictor(Flat(nn.Softmax(1)), input_shape=(1, 8, 8))
    predictor = TorchPredictor(Flat(nn.Softmax(1)), input_shape=(1, 8, 8), outputs="probabilities")
    rows = predictor.predict(torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(rows.sum(1), torch.ones(5))


def test_logits_declared_as_probabilities_are_an_invalid_answer(images):
    with pytest.raises(InvalidAnswer, match="outputs=logits"):
        TorchPredictor(Flat(), input_shape=(1, 8, 8), outputs="probabilities")


def test_nan_weights_are_an_invalid_answer(network, images):
    nn.init.constant_(network.head.weight, float("nan"))
    with pytest.raises(InvalidAnswer, match="7 of 7"):
        TorchPredictor(network).predict(images)


def test_a_wrong_number_of_classes_is_an_invalid_answer(images):
    predictor = TorchPredictor(Flat(), num_classes=4, input_shape=(1, 8, 8), outputs="logits")
    with pytest.raises(InvalidAnswer, match="it has 4 classes"):
        predictor.predict(images)


def test_class_names_must_fit(network):
    with pytest.raises(ModelError, match="3 classes but 2 class names"):
        TorchPredictor(network, class_names=("a", "b"))


def test_batch_statistics_are_refused():
    with pytest.raises(ModelError, match="no running statistics"):
        TorchPredictor(Flat(nn.BatchNorm1d(3, track_running_stats=False)), input_shape=(1, 8, 8))


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_dynamic_quantization_does_not_mix_rows(images):
    dynamic = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no quantized kernels on this machine")
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    model = Flat()
    model.body[1] = dynamic.Linear(64, 3)
    model.body[1].set_weight_bias(torch.quantize_per_tensor(weight, 0.02, 0, torch.qint8), torch.zeros(3))
    predictor = TorchPredictor(model, input_shape=(1, 8, 8))
    faint = images * 0.01
    assert not torch.equal(model(torch.cat([faint, images]))[:7], model(faint))
    assert torch.equal(predictor.predict(torch.cat([faint, images]))[:7], predictor.predict(faint))


def test_digest_tells_weights_apart_not_layouts(network):
    before = state_digest(network)
    assert len(before) == 16
    assert state_digest(network.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        network.head.bias[0] += 1e-3
    assert state_digest(network) != before
