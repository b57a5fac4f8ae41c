"""What a victim asks of a model, whatever file or function it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from modelmoat.core.errors import InvalidAnswer, ModelError
from modelmoat.models.outputs import OutputKind, check_outputs, on_simplex, to_simplex
from modelmoat.models.request import Shape, first_line

_MOST_ROWS = 512
_MOST_VALUES = 1 << 22


class Predictor(Protocol):
    """A trained model that answers: float32 images [N, C, H, W] in [0, 1] to float32 scores [N, K].

    ``reference`` is what the user wrote, ``digest`` 16 hex digits of its weights or file; ``class_names`` is empty
    where the model does not carry them, ``input_shape`` is None where it takes images of any size.
    """

    arch: str
    recipe: str
    digest: str
    reference: str
    num_classes: int
    input_shape: Shape | None
    class_names: tuple[str, ...]
    outputs: OutputKind
    device: torch.device

    def predict(self, inputs: Tensor) -> Tensor:
        """Scores [N, K] on ``device``, of the kind ``outputs``."""
        ...


class BatchedPredictor(ABC):
    """A predictor that runs in batches and checks what goes in and what comes out.

    A subclass sets up what ``_run`` needs, then calls this constructor. Where the number of classes or the kind of
    outputs is not given, two random images are sent to find out.

    Args:
        reference: what the user wrote.
        digest: 16 hex digits of the weights or the file.
        arch: name of the architecture or the format.
        recipe: how it was trained; ``external`` where this package did not train it.
        num_classes: K; measured if None.
        input_shape: channels, height, width of an image; None if any goes.
        class_names: K names or none.
        outputs: logits or probabilities; if None, logits, and outputs that look like probabilities are refused.
        device: where ``_run`` expects its inputs.
        fixed_rows: the only batch size that ``_run`` takes, if there is but one.
        alone: rows that share a batch would change each other's answers, so each runs by itself.

    Raises:
        ModelError: K cannot be found, the model fails on an image of ``input_shape``, or the names are not K.
    """

    def __init__(
        self,
        *,
        reference: str,
        digest: str,
        arch: str,
        recipe: str = "external",
        num_classes: int | None = None,
        input_shape: Shape | None = None,
        class_names: tuple[str, ...] = (),
        outputs: OutputKind | None = None,
        device: torch.device | str = "cpu",
        fixed_rows: int | None = None,
        alone: bool = False,
    ) -> None:
        self.reference = reference
        self.digest = digest
        self.arch = arch
        self.recipe = recipe
        self.input_shape = input_shape
        self.class_names = class_names
        self.device = torch.device(device)
        self._fixed_rows = fixed_rows
        self._alone = alone
        self.outputs: OutputKind = outputs or "logits"
        self.num_classes = self._find_classes(num_classes, kind_is_known=outputs is not None)
        if class_names and len(class_names) != self.num_classes:
            raise ModelError(
                f"model '{reference}' has {self.num_classes} classes but {len(class_names)} class names; "
                "fix: give one name per class"
            )

    def predict(self, inputs: Tensor) -> Tensor:
        """Scores [N, K], float32, on ``device``, for float images [N, C, H, W] in [0, 1].

        Probabilities are put on the simplex to float32 precision, whatever precision the model rounds to.

        Raises:
            ModelError: images of another shape or type.
            InvalidAnswer: the model gave something that is not N finite rows of K scores.
        """
        self._check_inputs(inputs)
        if not inputs.shape[0]:
            return torch.empty(0, self.num_classes, device=self.device)
        answers = self._answers(inputs)
        if answers.shape[1] != self.num_classes:
            raise InvalidAnswer(
                f"model '{self.reference}' gave {answers.shape[1]} scores per input; it has {self.num_classes} "
                "classes; fix: check the model's number of classes"
            )
        return answers

    @abstractmethod
    def _run(self, batch: Tensor) -> object:
        """What the model returns for one float32 batch on ``device``."""

    def _answers(self, inputs: Tensor) -> Tensor:
        pieces = [self._checked_run(batch) for batch in torch.split(inputs, self._rows(inputs))]
        return torch.cat(pieces)  # outside inference mode: an ordinary tensor, which training may use as a target

    def _checked_run(self, batch: Tensor) -> Tensor:
        count = len(batch)
        batch = batch.to(self.device, torch.float32)
        if self._fixed_rows is not None and count < self._fixed_rows:
            batch = torch.cat([batch, batch[-1:].expand(self._fixed_rows - count, *batch.shape[1:])])
        with torch.inference_mode():
            answers = check_outputs(self._run(batch), self.outputs, len(batch), self.reference)
        answers = answers[:count].to(self.device, torch.float32)
        return to_simplex(answers) if self.outputs == "probabilities" else answers

    def _rows(self, inputs: Tensor) -> int:
        if self._alone:
            return 1
        if self._fixed_rows is not None:
            return self._fixed_rows
        return max(1, min(_MOST_ROWS, _MOST_VALUES // max(1, inputs[0].numel())))

    def _check_inputs(self, inputs: Tensor) -> None:
        if not inputs.is_floating_point():
            raise ModelError(f"inputs are {inputs.dtype}; models take float images in [0, 1]; fix: divide bytes by 255")
        if inputs.dim() != 4 or (self.input_shape is not None and tuple(inputs.shape[1:]) != self.input_shape):
            expected = "[N, C, H, W]" if self.input_shape is None else f"[N, {', '.join(map(str, self.input_shape))}]"
            raise ModelError(
                f"inputs have shape {list(inputs.shape)}; model '{self.reference}' takes {expected}; "
                "fix: choose data of that shape, or resize it (size=) and set its channels (grey)"
            )

    def _find_classes(self, num_classes: int | None, *, kind_is_known: bool) -> int:
        if num_classes is not None and (kind_is_known or self.input_shape is None):
            return num_classes
        if self.input_shape is None:
            raise ModelError(
                f"model '{self.reference}' does not say how many classes it has nor what images it takes; "
                f"fix: add the image shape, such as '{self.reference},input=3x32x32'"
            )
        sample = self._probe(self.input_shape)
        if not kind_is_known and on_simplex(sample, 1e-3):
            raise ModelError(
                f"model '{self.reference}' gives rows that are non-negative and sum to one, so they look like "
                f"probabilities; fix: write '{self.reference},outputs=probabilities', or outputs=logits if not"
            )
        return num_classes if num_classes is not None else sample.shape[1]

    def _probe(self, shape: Shape) -> Tensor:
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        try:
            return self._answers(images)
        except InvalidAnswer:
            raise
        except Exception as error:
            raise ModelError(
                f"model '{self.reference}' fails on images of shape {list(shape)} (channels, height, width): "
                f"{type(error).__name__}: {first_line(error)}; fix: choose data of the shape that it takes"
            ) from error
