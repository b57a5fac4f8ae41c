"""What every defense promises."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from modelmoat.core.registry import Method, Registry
from modelmoat.data import ImageSet
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
    """

    predictor: Predictor
    train: ImageSet
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, repr=False)
class Defense(Method):
    """Changes answers at inference time; a row of served answers depends on that row alone, never on its neighbors.

    Class attributes that listings and conformance tests read:
        needs: what it wants beyond probabilities (``logits``, ``inputs``).
        keeps_top1: the served top-1 is always the clean one.
        deterministic: the same input is always answered the same way.
        stateful: an answer depends on the account's earlier queries.
        exportable: plain tensor code, so that it can travel inside an exported graph.
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

    def prepare(self, preparation: Preparation) -> Responder:
        """The ready defense; methods without state or preparation are ready as they are."""
        del preparation
        return self

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Served rows, float32 [N, K], on the simplex."""
        return self.perturb(clean.probabilities)

    @abstractmethod
    def perturb(self, probabilities: Tensor) -> Tensor:
        """Change rows of probabilities, [N, K] -> [N, K], both on the simplex."""


DEFENSES: Registry[Defense] = Registry("defense", "modelmoat.defenses")


def create_defense(name: str, **parameters: Any) -> Defense:
    """Build a defense by name.

    >>> create_defense("top_k", k=3)
    TopK(k=3)
    """
    return DEFENSES.create(name, **parameters)


def parse_defense(reference: str) -> Defense:
    """Build a defense from ``name:param=value,param=value``.

    >>> parse_defense("rounding:decimals=1").spec
    'rounding:decimals=1'
    """
    return DEFENSES.parse(reference)
