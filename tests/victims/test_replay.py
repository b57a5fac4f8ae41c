from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modelmoat.core.errors import DataError, InvalidAnswer, ModelmoatError, RunError, UnknownReference
from modelmoat.data import load_splits
from modelmoat.models import TorchPredictor, create_network
from modelmoat.victims import Victim, load_predictor


def record(path: Path, predictor: Any, inputs: Tensor, output: str = "probabilities") -> Tensor:
    victim = Victim(predictor, output=output).with_ledger(None, path)
    return torch.cat([victim.query(inputs[:5]).values, victim.query(inputs[5:], "other").values])


@pytest.mark.parametrize("output", ["probabilities", "label"])
def test_a_journal_answers_like_the_victim_it_recorded(
    tmp_path: Path, predictor: Any, inputs: Tensor, output: str
) -> None:
    answers = record(tmp_path / "a.journal", predictor, inputs, output)
    replay = load_predictor(f"replay:{tmp_path / 'a.journal'}")
    order = torch.tensor([7, 0, 11, 0])
    assert torch.equal(Victim(replay).query(inputs[order]).values, answers[order])
    assert replay.num_classes == 3
    assert predictor.asked == 12


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_an_archive_answers_like_the_victim_it_recorded(tmp_path: Path, dtype: str) -> None:
    pixels = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = create_network("small_cnn", num_classes=4, input_shape=(1, 8, 8), seed=0)
    answers = Victim(TorchPredictor(network)).query(pixels).values
    images = pixels.numpy() if dtype == "uint8" else (pixels.float() / 255).numpy().astype(dtype)
    np.savez_compressed(tmp_path / "a.npz", images=images, answers=answers.numpy())
    replay = load_predictor(f"replay:{tmp_path / 'a.npz'}")
    assert replay.input_shape == (1, 8, 8)
    assert torch.equal(Victim(replay).query(pixels).values, answers)
    with pytest.raises(DataError, match="inputs of shape 1x4x4"):
        Victim(replay).query(pixels[:, :, :4, :4])


def test_the_documented_recording_answers_pool_and_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "references.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)

    def predict(images: np.ndarray) -> np.ndarray:
        scores = np.exp(images.reshape(len(images), -1) @ weights)
        return scores / scores.sum(axis=1, keepdims=True)

    exec(compile(code, str(page), "exec"), {"predict": predict})  # noqa: S102 - our own page
    victim = Victim(load_predictor("replay:answers.npz"))
    splits = load_splits("digits,pool=0.4")
    for part in (splits.pool, splits.test):
        assert part is not None
        answers = victim.serve(part.images).values.numpy()
        np.testing.assert_allclose(answers, predict(part.images.numpy().astype(np.float32) / 255), atol=1e-5)


def test_an_input_without_an_answer_is_refused(tmp_path: Path, predictor: Any, inputs: Tensor) -> None:
    record(tmp_path / "a.journal", predictor, inputs[:6])
    replay = load_predictor(f"replay:{tmp_path / 'a.journal'}")
    victim = Victim(replay)
    with pytest.raises(
        DataError, match=r"a\.journal has no answer for 2 of 4 inputs \(it holds 6\); fix: give an .npz .* test images"
    ):
        victim.query(inputs[4:8])
    assert victim.ledger.sent == 0


def test_a_recording_is_known_by_its_content(tmp_path: Path, predictor: Any, inputs: Tensor) -> None:
    for name, count in (("a", 6), ("b", 6), ("c", 7)):
        record(tmp_path / f"{name}.journal", predictor, inputs[:count])
    digests = [load_predictor(f"replay:{tmp_path / name}.journal").digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_recording_of_parts_of_rows_cannot_be_replayed(tmp_path: Path, predictor: Any, inputs: Tensor) -> None:
    record(tmp_path / "a.journal", predictor, inputs, "top2")
    with pytest.raises(DataError, match=r"a\.journal holds top2 answers; expected whole rows .*fix: record"):
        load_predictor(f"replay:{tmp_path / 'a.journal'}")


def truncated(path: Path) -> None:
    np.savez(path, images=np.zeros((4, 1, 2, 2), np.uint8), answers=np.full((4, 2), 0.5))
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    np.savez_compressed(path, images=np.zeros((40, 1, 8, 8), np.uint8), answers=np.full((40, 2), 0.5))
    raw = bytearray(path.read_bytes())
    raw[60:75] = b"\xff" * 15
    path.write_bytes(raw)


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no archive"),
    "truncated": truncated,
    "flipped": flipped,
    "a plain array": lambda path: (
        np.save(path.with_suffix(".npy"), np.zeros(3)) or path.with_suffix(".npy").rename(path)
    ),
    "other names": lambda path: np.savez(path, x=np.zeros(3)),
    "pickled": lambda path: np.savez(path, images=np.array([None, {}]), answers=np.zeros((2, 2))),
    "words": lambda path: np.savez(path, images=np.array([["a"]]), answers=np.zeros((1, 2))),
    "flat": lambda path: np.savez(path, images=np.zeros((2, 4)), answers=np.full((2, 2), 0.5)),
    "fewer answers": lambda path: np.savez(path, images=np.zeros((3, 1, 2, 2)), answers=np.full((2, 2), 0.5)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_refused_with_what_is_expected(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    BROKEN[kind](path)
    with pytest.raises(DataError, match=r"a\.npz: .*expected .*\[N, C, H, W\].*\[N, K\]"):
        load_predictor(f"replay:{path}")


@pytest.mark.parametrize("answers", [np.full((2, 2), 0.7), np.array([[1.5, -0.5]] * 2), np.full((2, 2), np.nan)])
def test_answers_that_are_no_probabilities_are_refused(tmp_path: Path, answers: Any) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 1, 2, 2)), answers=answers)
    with pytest.raises(InvalidAnswer, match=r"replay:.*a\.npz"):
        load_predictor(f"replay:{tmp_path / 'a.npz'}")


def test_a_reference_to_nothing_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UnknownReference, match=r"replay:.*none\.npz: there is no file .*expected a \.journal or \.npz"):
        load_predictor(f"replay:{tmp_path / 'none.npz'}")
    (tmp_path / "a.journal").write_text("something else\n")
    with pytest.raises(RunError, match="is not a journal of answers"):
        load_predictor(f"replay:{tmp_path / 'a.journal'}")


def test_a_journal_without_answers_is_refused(tmp_path: Path, predictor: Any, inputs: Tensor) -> None:
    path = tmp_path / "a.journal"
    record(path, predictor, inputs)
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")
    with pytest.raises(DataError, match=r"a\.journal holds no answers; fix"):
        load_predictor(f"replay:{path}")


def test_other_references_are_models(tmp_path: Path) -> None:
    with pytest.raises(ModelmoatError, match="nowhere"):
        load_predictor(str(tmp_path / "nowhere"))
