"""What QUEEN reads inside the victim: the features that its last linear layer sees."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from modelmoat.core.errors import DataError, OptionError
from modelmoat.data import ImageSet
from modelmoat.models import Classifier, Predictor
from modelmoat.quantization import Simulated, simulated_form
from modelmoat.training import Images, predict_logits


class VictimFeatures:
    """phi: images [N, C, H, W] -> features [N, D], by the victim's own network and on its device.

    Reading them is one more forward pass of the victim per query: what asks the model for its answer does not hand on
    what the model computed on the way. The network is shared, never copied, and stays in evaluation mode. An int8 victim
    is read in its simulated form, whose rounding is that of the served graph but for the order of sums.

    Raises:
        OptionError: a victim without a readable network (an ONNX file, a service, recorded answers), or one that is not
            features followed by a linear head.
        ModelError: an int8 victim whose files are damaged, or no torchao to read it.
    """

    def __init__(self, predictor: Predictor, spec: str) -> None:
        network = simulated_form(predictor) or getattr(predictor, "network", None)
        if not isinstance(network, Classifier | Simulated):
            found = "no network that can be read" if network is None else f"a {type(network).__name__}"
            raise OptionError(
                f"defense '{spec}' needs the features that the victim's last linear layer sees, and '{predictor.reference}' "
                f"has {found}; fix: defend an artifact of this package (modelmoat train), or choose a defense that needs "
                "answers alone"
            )
        self._reader = _Reader(network).eval()
        self._head = network.head.weight if isinstance(network, Classifier) else network.head_weight

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self._head.shape[1]

    @property
    def weight(self) -> Tensor:
        """W [K, D] of the linear head: logits are W phi + b."""
        return self._head.detach()

    def read(self, images: Tensor | Images) -> Tensor:
        """Features of images, float32 [N, D], on the CPU."""
        return predict_logits(self._reader, images).clone()  # an ordinary tensor, which training may use

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies of a defense keep looking at the same victim."""
        return self


class _Reader(nn.Module):
    """The network up to its head, as a module of its own."""

    def __init__(self, network: Classifier | Simulated) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def check_training_images(train: ImageSet, predictor: Predictor, spec: str) -> None:
    """Raise `DataError` unless the images have the victim's shape and classes, and every class has some."""
    if train.num_classes != predictor.num_classes:
        raise DataError(
            f"defense '{spec}': the training images have {train.num_classes} classes and the victim answers with "
            f"{predictor.num_classes}; fix: prepare it with the images that the victim was trained on"
        )
    if predictor.input_shape not in (None, train.shape):
        raise DataError(
            f"defense '{spec}': the training images have shape {train.shape}, the victim takes {predictor.input_shape}; "
            "fix: prepare it with the images that the victim was trained on"
        )
    empty = (train.labels.bincount(minlength=train.num_classes) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise DataError(
            f"defense '{spec}': {len(empty)} of {train.num_classes} classes have no training images (first: class {empty[0]}, "
            f"'{train.class_names[empty[0]]}'); expected at least one for each; fix: give the whole training set"
        )


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean of the rows of each class: [N, D] and labels [N] -> [K, D].

    >>> import torch
    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2)
    tensor([[2.],
            [5.]])
    """
    sums = values.new_zeros(num_classes, values.shape[1]).index_add_(0, labels, values)
    return sums / labels.bincount(minlength=num_classes)[:, None]
