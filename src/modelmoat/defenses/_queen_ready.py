"""QUEEN, ready to answer: the plane, the shadows, and what has been asked so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modelmoat.core.errors import OptionError
from modelmoat.defenses._checks import checked
from modelmoat.defenses._noise import input_seeds
from modelmoat.defenses._queen_drift import drift
from modelmoat.defenses._queen_features import VictimFeatures
from modelmoat.defenses._queen_plane import SensitivePlane, sensitivity
from modelmoat.defenses._queen_reversal import reverse
from modelmoat.defenses._queen_shadows import Shadows, draw_members
from modelmoat.defenses._queen_state import QueenState, Queries
from modelmoat.defenses.prepared import PreparedModule
from modelmoat.models import Predictor
from modelmoat.victims import CleanAnswers

if TYPE_CHECKING:
    from modelmoat.defenses.queen import Queen

EVERYONE = "everyone"
_ROWS = 1024


class PreparedQueen(PreparedModule):
    """QUEEN for one victim; answers depend on the queries before them, and a batch counts as its rows in order.

    The same pixels are always answered in the same way by the same counters: once a query was recorded, lay near a record
    or was reversed, it stays so. What changes with the stream are the answers to inputs that were not asked before.

    A query costs one more forward pass of the victim, to read its features (for an int8 victim of its simulated form, which
    takes longer than its graph), and for reversed ones the passes of the drawn shadows. Memory is bounded per class and
    account (see `QueenState`), but not in the number of accounts where ``scope=account``.

    Attributes:
        state: counters and records, in all tensors; saved and restored with everything else.
        plane: the mapping network with the sensitive region of each class.
        shadows: imitations of a clone.
        centers: mean training features of each class, [K, D].
    """

    centers: Tensor

    def __init__(
        self,
        method: Queen,
        predictor: Predictor,
        *,
        features: VictimFeatures,
        plane: SensitivePlane,
        shadows: Shadows,
        seed: int,
    ) -> None:
        super().__init__(method, predictor)
        self.queen = method
        self.plane = plane
        self.shadows = shadows
        self.state = QueenState(self.num_classes)
        self.register_buffer("centers", torch.zeros(self.num_classes, features.width))
        self._features = features
        self._seed = seed
        self._shadow_facts = shadows.facts()

    def respond(self, clean: CleanAnswers) -> Tensor:
        """Served rows, float32 [N, K], on the simplex; raises as `checked` does, and changes nothing then."""
        clean = checked(clean, self.spec, num_classes=self.num_classes)
        account = self.account(clean.account)
        device = clean.probabilities.device
        with torch.no_grad():
            parts = zip(clean.probabilities.split(_ROWS), clean.inputs.split(_ROWS), strict=True)
            return torch.cat([self._serve(y, inputs, account).to(device) for y, inputs in parts])

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Not possible: raises `OptionError`, since a graph has no memory."""
        del probabilities, inputs
        raise OptionError(
            f"defense '{self.spec}' remembers queries and cannot be part of an exported graph; fix: serve it with respond"
        )

    def account(self, name: str) -> str:
        """Whose counters a query of an account goes to; all share one set where ``scope=global``."""
        return name if self.queen.scope == "account" else EVERYONE

    def reversed_share(self, account: str = EVERYONE) -> float:
        """Share of the account's queries so far that were reversed; 0 before the first."""
        if account not in self.state.accounts:
            return 0.0
        answered, turned = self.state.served[self.state.accounts.index(account)].tolist()
        return turned / answered if answered else 0.0

    def locate(self, probabilities: Tensor, features: Tensor) -> Queries:
        """Where queries fall in the plane and what each of them weighs; rows [N, K] and features [N, D]."""
        labels = probabilities.argmax(dim=1)
        points, distance = self.plane.locate(features, labels)
        radius = self.plane.radii[labels]
        reach = self.queen.reach(radius)
        share = torch.where(radius > 0, reach / radius, 0.0)
        gain = (sensitivity(distance, radius, self.queen.alpha) * share) ** 2
        return Queries(labels=labels, points=points, inside=distance < radius, reach=reach, gain=gain)

    def facts(self) -> dict[str, Any]:
        """Shapes and seeds that the tensors do not show."""
        return {**self._shadow_facts, "seed": self._seed, **self.state.facts()}

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Make room for the saved accounts and go on with the saved seed."""
        self._seed = int(facts["seed"])
        self.state.adopt(facts)

    def _serve(self, y: Tensor, inputs: Tensor, account: str) -> Tensor:
        own = self.centers.device
        y, features = y.to(own), self._features.read(inputs.float()).to(own)
        turned = self.state.observe(account, self.locate(y, features), self.queen.threshold)
        rows = drift(
            y,
            features,
            self.centers,
            self._features.weight.to(own),
            step=self.queen.drift_step,
            steps=self.queen.drift_steps,
        )
        if bool(turned.any()):
            where = turned.nonzero()[:, 0]
            rows[where] = self._reversed(y[where], inputs[where.to(inputs.device)].to(own, torch.float32))
        return rows

    def _reversed(self, y: Tensor, inputs: Tensor) -> Tensor:
        seeds = input_seeds(inputs, self._seed)  # the same pixels always meet the same shadows
        chosen = draw_members(seeds, len(self.shadows.members), self.queen.drawn)
        return reverse(self.shadows.mean(inputs, chosen, self.queen.shadow_space), y)
