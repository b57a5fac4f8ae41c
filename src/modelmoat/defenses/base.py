"""What every defense promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from modelmoat.core.errors import ModelError, OptionError
from modelmoat.core.registry import Method, Registry
from modelmoat.data import ImageSet
from modelmoat.defenses._checks import checked
from modelmoat.defenses.dial import Dial
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers, Responder


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a defender has when a defense is set up.

    Attributes:
        predictor: the undefended victim.
        train: the victim's training images; never its test images.
        seed: of every random draw of the preparation.
        device: where networks of the defense run.
        simulated: an attacker's copy of the defense: where images that the method itself reads are among the training
            images, the copy does without them instead of being refused.
    """

    predictor: Predictor
    train: ImageSet
    seed: int = 0
    device: str = "cpu"
    simulated: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Defense(Method):
    """Changes answers at inference time; a row of served answers depends on that row alone, never on its neighbors.

    A method that acts on rows alone overrides :meth:`perturb`; one that also looks at the inputs, :meth:`forward`.
    Both are ready as they are. One that holds tensors or networks is a `PreparableDefense`.

    Class attributes that listings and conformance tests read; parameters may decide some of them for one instance:
        needs: what it wants beyond probabilities: ``inputs``, ``logits``, ``training`` (images when it is prepared).
        keeps_top1: the served top-1 is always the clean one.
        deterministic: the same input is always answered the same way.
        stateful: an answer depends on earlier queries.
        exportable: plain tensor code, so that it can travel inside an exported graph (noise that belongs to pixels needs
            operations on bits, which ``torch.export`` takes and ONNX does not have).
        identity: parameters at which answers are left as they are, where the method has such.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    keeps_top1: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    stateful: ClassVar[bool] = False
    exportable: ClassVar[bool] = True
    identity: ClassVar[dict[str, Any] | None] = None

    @property
    def l1_bound(self) -> float:
        """No served row is farther than this from the clean one, in L1; 2 is no promise."""
        return 2.0

    def foreign(self, shape: tuple[int, int, int]) -> tuple[str, ...]:
        """References of out-of-distribution images that preparing it reads for a victim of images of ``shape``, or ``noise``."""
        del shape
        return ()

    def dial(self, num_classes: int) -> Dial | None:
        """The parameter that calibration turns for a victim of ``num_classes`` classes; None where there is none."""
        del num_classes
        return None

    def prepare(self, preparation: Preparation) -> Responder:
        """The ready defense; methods without state or preparation are ready as they are."""
        del preparation
        return self

    def restore(self, predictor: Predictor, tensors: Mapping[str, Tensor], *, device: str = "cpu") -> Responder:
        """The ready defense as it was when ``tensors`` were saved, without training images and without training.

        Args:
            predictor: the victim that the defense was prepared for.
            tensors: what `saved_state` gave.
            device: where networks of the defense run.

        Raises:
            ModelError: tensors of another defense, of other parameters or of another victim.
        """
        del predictor, device
        if tensors:
            raise ModelError(
                f"defense '{self.spec}' keeps no state, but {len(tensors)} tensors were given ({', '.join(sorted(tensors)[:3])}); "
                "fix: restore the defense that they were saved with"
            )
        return self

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Served rows, float32 [N, K], on the simplex; raises as `checked` does."""
        clean = checked(clean, self.spec)
        with torch.no_grad():
            return self.forward(clean.probabilities, clean.inputs)

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Served rows of float32 rows [N, K] and inputs [N, C, H, W]: what an exported graph computes."""
        del inputs
        return self.perturb(probabilities)

    def perturb(self, probabilities: Tensor) -> Tensor:
        """Change rows of probabilities, [N, K] -> [N, K], both on the simplex."""
        del probabilities
        raise OptionError(
            f"defense '{self.spec}' is not ready to answer; fix: call prepare(Preparation(...)) or restore first"
        )

    def _declare(self, **promises: bool) -> None:
        """Set class attributes for this instance alone, where its parameters decide them."""
        for name, value in promises.items():
            object.__setattr__(self, name, value)


DEFENSES: Registry[Defense] = Registry("defense", "modelmoat.defenses")


def create_defense(name: str, **parameters: Any) -> Defense:
    """Build a defense by name.

    >>> create_defense("top_k", k=3)
    TopK(k=3)
    """
    return DEFENSES.create(name, **parameters)
