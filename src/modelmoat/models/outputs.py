"""What counts as an output of a model: finite scores, one row per input."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from modelmoat.core.errors import InvalidAnswer, OptionError, nearest

OutputKind: TypeAlias = Literal["logits", "probabilities"]
SIMPLEX_TOLERANCE = 1e-2


def check_outputs(outputs: object, kind: OutputKind, num_rows: int, reference: str) -> Tensor:
    """Return ``outputs`` if they are [num_rows, K >= 2], finite, and on the simplex where they are probabilities.

    Probabilities may miss their limits by 0.01, which leaves room for half precision.

    Raises:
        InvalidAnswer: with the value found, the limit and the fix.
    """
    answers = _check_shape(outputs, num_rows, reference)
    if not answers.isfinite().all():
        bad = int((~answers.isfinite()).any(dim=1).sum())
        raise InvalidAnswer(
            f"model '{reference}' gave NaN or infinite scores for {bad} of {num_rows} inputs; every score must be "
            "finite; fix: check its weights, and that it takes float images in [0, 1]"
        )
    if kind == "probabilities" and num_rows:
        _check_simplex(answers, reference)
    return answers


def on_simplex(answers: Tensor, tolerance: float = SIMPLEX_TOLERANCE) -> bool:
    """Whether every row of ``answers`` [N, K] is non-negative and sums to one, within ``tolerance``."""
    least, error = _simplex_errors(answers)
    return least >= -tolerance and error <= tolerance


def to_simplex(probabilities: Tensor) -> Tensor:
    """Clear what rounding left: max(p, 0) / sum(max(p, 0)) for checked rows [N, K]."""
    positive = probabilities.clamp_min(0)
    return positive / positive.sum(dim=1, keepdim=True)


def read_kind(text: str | None) -> OutputKind | None:
    """Read ``logits``, ``probabilities`` or nothing; raises `OptionError` with the nearest match."""
    match text:
        case None | "logits" | "probabilities":
            return text
    raise OptionError(f"outputs={text}: expected logits or probabilities{nearest(text, get_args(OutputKind))}")


def _check_shape(outputs: object, num_rows: int, reference: str) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise InvalidAnswer(
            f"model '{reference}' returned {type(outputs).__name__}; it must return one tensor of shape [N, K]; "
            "fix: wrap it so that it returns the logits only"
        )
    if outputs.dim() != 2 or outputs.shape[0] != num_rows:
        raise InvalidAnswer(
            f"model '{reference}' returned shape {list(outputs.shape)} for {num_rows} inputs; it must be [{num_rows}, "
            "K]; fix: wrap it so that each input gives one row of class scores"
        )
    if outputs.shape[1] < 2:
        raise InvalidAnswer(
            f"model '{reference}' gave {outputs.shape[1]} scores per input; at least 2 classes are needed; "
            "fix: return one score per class (for a binary score s, the two logits 0 and s)"
        )
    if not outputs.is_floating_point():
        raise InvalidAnswer(
            f"model '{reference}' returned {outputs.dtype}; scores must be floating point; fix: return logits, not "
            "labels"
        )
    return outputs


def _check_simplex(answers: Tensor, reference: str) -> None:
    least, error = _simplex_errors(answers)
    if least < -SIMPLEX_TOLERANCE or error > SIMPLEX_TOLERANCE:
        raise InvalidAnswer(
            f"model '{reference}' gave rows that are not probabilities: least value {least:.4g}, sums off by up to "
            f"{error:.4g}; the limit is {SIMPLEX_TOLERANCE:g}; fix: load it with outputs=logits if it ends without a "
            "softmax"
        )


def _simplex_errors(answers: Tensor) -> tuple[float, float]:
    values = answers.float()
    return float(values.min()), float((values.sum(dim=1) - 1).abs().max())
