from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelmoat.core.errors import OptionError
from modelmoat.victims import Answers, OutputFormat

ROWS = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])


@pytest.mark.parametrize(
    ("text", "written", "kind"),
    [
        ("probabilities", "probabilities", "probabilities"),
        ("label", "label", "label"),
        ("top1", "top1", "top-k"),
        ("top-12", "top12", "top-k"),
    ],
)
def test_formats_are_read_and_written(text: str, written: str, kind: str) -> None:
    output = OutputFormat.parse(text)
    assert (str(output), output.kind) == (written, kind)
    assert OutputFormat.parse(str(output)) == output


@pytest.mark.parametrize("text", ["top", "top0", "top-x", "top1.5", "labels", "", "Probabilities"])
def test_unknown_formats_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=rf"^output '{text}': expected .*such as top"):
        OutputFormat.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("probabilities", [[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]),
        ("label", [[0, 1, 0], [1, 0, 0]]),
        ("top1", [[0, 0.6, 0], [0.5, 0, 0]]),
        ("top2", [[0, 0.6, 0.3], [0.5, 0, 0.3]]),
        ("top3", [[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]),
    ],
)
def test_a_format_blanks_what_is_not_served(text: str, expected: list[list[float]]) -> None:
    before = ROWS.clone()
    served = OutputFormat.parse(text).apply(ROWS)
    assert torch.equal(served, torch.tensor(expected))
    assert served.dtype == torch.float32
    assert torch.equal(before, ROWS)


def test_more_classes_than_there_are_cannot_be_served() -> None:
    with pytest.raises(OptionError, match=r"output top4: the victim has 3 classes; expected k of at most 3"):
        OutputFormat.parse("top4").apply(ROWS)


@settings(deadline=None)
@given(
    st.integers(2, 40).flatmap(lambda k: st.lists(st.lists(st.integers(0, 3), min_size=k, max_size=k), min_size=1)),
    st.integers(1, 40),
)
def test_ties_go_to_the_first_classes_in_every_format(rows: list[list[int]], k: int) -> None:
    values = torch.tensor(rows, dtype=torch.float32) + 0.5
    values = values / values.sum(dim=1, keepdim=True)
    k = min(k, values.shape[1])
    served = OutputFormat("top-k", k).apply(values)
    for row, kept in zip(values.tolist(), served, strict=True):
        first = sorted(range(len(row)), key=lambda place: (-row[place], place))[:k]
        assert kept.nonzero().flatten().tolist() == sorted(first)
    labels = OutputFormat("label").apply(values)
    assert torch.equal(Answers("top-k", served).labels, Answers("label", labels).labels)


@pytest.mark.parametrize("text", ["probabilities", "top2", "label"])
def test_targets_sum_to_one_and_keep_the_label(text: str) -> None:
    output = OutputFormat.parse(text)
    answers = Answers(output.kind, output.apply(ROWS))
    targets = answers.targets()
    assert torch.allclose(targets.sum(dim=1), torch.ones(2))
    assert torch.equal(targets.argmax(dim=1), answers.labels)
    assert torch.equal(answers.labels, torch.tensor([1, 0]))
    if text == "top2":
        assert torch.allclose(targets, torch.tensor([[0, 2 / 3, 1 / 3], [5 / 8, 0, 3 / 8]]))


def test_answers_are_cut_and_joined() -> None:
    answers = Answers("top-k", ROWS)
    parts = [answers[:1], answers[1:]]
    assert [len(part) for part in parts] == [1, 1]
    joined = Answers.join(parts)
    assert joined.kind == "top-k"
    assert torch.equal(joined.values, ROWS)


@settings(deadline=None)
@given(st.integers(1, 6))
def test_one_row_is_served_like_many(k: int) -> None:
    rows: Tensor = torch.rand(9, 6, generator=torch.Generator().manual_seed(k)).round(decimals=1)
    output = OutputFormat("top-k", k)
    assert torch.equal(output.apply(rows), torch.cat([output.apply(row[None]) for row in rows]))
