import pytest
import torch

from modelmoat.core.errors import InvalidAnswer
from modelmoat.models import check_outputs

GOOD = torch.tensor([[0.2, 0.8], [1.0, 0.0]])


def test_good_outputs_pass_unchanged():
    assert check_outputs(GOOD, "probabilities", 2, "m") is GOOD
    assert check_outputs(GOOD * 50 - 20, "logits", 2, "m").shape == (2, 2)


@pytest.mark.parametrize(
    ("outputs", "kind", "words"),
    [
        (torch.tensor([[0.5, float("nan")], [0.1, 0.9]]), "logits", "for 1 of 2 inputs"),
        (torch.tensor([[0.5, float("inf")], [0.1, 0.9]]), "logits", "NaN or infinite"),
        (torch.zeros(2), "logits", r"shape \[2\] for 2 inputs"),
        (torch.zeros(3, 4), "logits", r"must be \[2, K\]"),
        (torch.zeros(2, 4, 1, 1), "logits", r"shape \[2, 4, 1, 1\]"),
        (torch.zeros(2, 1), "logits", "at least 2 classes"),
        (torch.zeros(2, 4, dtype=torch.long), "logits", "not labels"),
        ({"logits": GOOD}, "logits", "returned dict"),
        (GOOD * 2, "probabilities", "sums off by up to 1"),
        (torch.tensor([[-0.5, 1.5], [0.5, 0.5]]), "probabilities", "least value -0.5"),
    ],
)
def test_bad_outputs_are_named(outputs, kind, words):
    with pytest.raises(InvalidAnswer, match=words) as caught:
        check_outputs(outputs, kind, 2, "my-model")
    assert "my-model" in str(caught.value)
    assert "fix:" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_probabilities_are_probabilities(dtype):
    rows = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    check_outputs(rows, "probabilities", 64, "m")
