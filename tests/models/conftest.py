import pytest
import torch

from modelmoat.models import Classifier, create_network


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network() -> Classifier:
    return create_network("small_cnn", num_classes=3, input_shape=(1, 8, 8), seed=0, mean=(0.3,), std=(0.4,)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
