"""What every attack promises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from modelmoat.attacks.insight import Insight
from modelmoat.attacks.thief import Theft, Thief
from modelmoat.core.errors import OptionError
from modelmoat.core.registry import Method, Registry
from modelmoat.data import ImageSet
from modelmoat.victims import Answers
from modelmoat.victims.answers import EXPLAINED, OutputKind

Targets = Literal["soft", "label"]
ANY_OUTPUT: frozenset[OutputKind] = frozenset({"probabilities", "top-k", "label", EXPLAINED})


@dataclass(frozen=True, kw_only=True, repr=False)
class Attack(Method):
    """Steals a model through its answers.

    Class attributes that listings and conformance tests read:
        outputs: kinds of answers that it can use.
        sends: whether it asks the victim at all; a baseline does not.
        knows: what the attacker is given, in words.
    """

    targets: Targets = "soft"
    """Train on whole answers, or on their labels alone, which undoes every defense that keeps them."""

    outputs: ClassVar[frozenset[OutputKind]] = ANY_OUTPUT
    sends: ClassVar[bool] = True
    knows: ClassVar[str]

    @abstractmethod
    def run(self, thief: Thief, budgets: Sequence[int]) -> Iterator[Theft]:
        """Send queries and train clones; yields one theft per budget, in growing order.

        What is sent up to a budget does not depend on larger ones, so that one run serves a list of budgets: the clone
        at each is the one that a run with this budget alone would have trained.
        """

    @property
    def defense_aware(self) -> bool:
        """Whether the attacker reckons with a defense; training on labels alone is the simplest way to do so."""
        return self.targets == "label"

    @property
    def own_kind(self) -> float:
        """Images of the victim's own kind that take the place of the pool, as a share of its training set; 0 for none."""
        return 0.0

    def knowledge(self) -> str:
        """What the attacker is given and reckons with, in words."""
        return f"{self.knows}; expects a defense and trains on labels alone" if self.targets == "label" else self.knows

    @abstractmethod
    def check(self, budgets: Sequence[int], pool_size: int) -> None:
        """Raise `OptionError` where a pool of ``pool_size`` images is too small for the budgets; asks nothing."""

    def check_fit(self, pool: ImageSet, num_classes: int) -> None:
        """Raise `OptionError` where the pool or the victim's number of classes lack what is needed; asks nothing.

        Most attacks need nothing beyond what `check` sees.
        """

    def check_insight(self, insight: Insight) -> None:
        """Raise `OptionError` where what the attacker knows of the defense is of no use to it; asks nothing.

        Most attacks know nothing of it.
        """

    @property
    def own_training(self) -> bool:
        """Whether it trains clones in a way of its own, in which a recovery's loss has no place."""
        return False

    def beside(self) -> Attack | None:
        """Another attack, without which the numbers of this one say little; it is run too."""
        return None

    def learn(self, answers: Answers) -> Tensor:
        """What the clone is trained on: rows of probabilities [N, K], or labels [N]."""
        return answers.labels if self.targets == "label" or answers.kind == "label" else answers.targets()


def checked_budgets(budgets: Sequence[int], available: int | None = None) -> list[int]:
    """Different budgets in growing order; raises `OptionError` for none, zero, or more than ``available`` images."""
    if not budgets or min(budgets) < 1:
        raise OptionError(f"budgets {list(budgets)}: expected at least one, each of at least 1 query")
    if available is not None and max(budgets) > available:
        raise OptionError(
            f"budget {max(budgets):,}: the pool has {available:,} images, and each is sent at most once; "
            f"fix: a budget of at most {available:,}, or a larger pool"
        )
    return sorted(set(budgets))


ATTACKS: Registry[Attack] = Registry("attack", "modelmoat.attacks")


def create_attack(name: str, **parameters: Any) -> Attack:
    """Build an attack by name.

    >>> create_attack("knockoff").spec
    'knockoff'
    """
    return ATTACKS.create(name, **parameters)
