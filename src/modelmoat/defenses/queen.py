"""QUEEN: unlearn queries, by reversing the answers to what has been asked too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from modelmoat.core.errors import require
from modelmoat.core.seeds import derive
from modelmoat.defenses._queen_features import VictimFeatures, check_training_images, class_means
from modelmoat.defenses._queen_mapping import MappingSettings, Optimizer, Shape, create_mapping, train_mapping
from modelmoat.defenses._queen_plane import SensitivePlane
from modelmoat.defenses._queen_ready import PreparedQueen
from modelmoat.defenses._queen_shadows import Space, blank_shadows, train_shadows
from modelmoat.defenses.base import DEFENSES, Preparation
from modelmoat.defenses.prepared import PreparableDefense
from modelmoat.models import Predictor


@DEFENSES.register("queen")
@dataclass(frozen=True, kw_only=True, repr=False)
class Queen(PreparableDefense):
    """Counts how much of the middle of each class was asked for, and above a threshold serves reversed answers there.

    Prepared on the victim's training images: a network maps victim features into a plane where classes gather, with a
    center mu and a sensitive radius rho for each class, and a few undertrained shadow models imitate a clone. For a
    query of top class c at u in the plane, d = |u - mu_c|:

    - It is sensitive if d < rho_c and no earlier record of c lies within r of u.
    - Sensitive, with the class's counter Q_c at most ``threshold``: u is recorded, and Q_c grows by s(d)^2 (r / rho_c)^2,
      s(d) = erfc(alpha (d - rho_c) / rho_c) / 2, the share of the region that the record covers, weighted.
    - Sensitive, with Q_c above ``threshold``: the answer reverses the gradient of the shadows (`reverse`); its label is
      wrong as a rule. Nothing is recorded.
    - All other answers keep their label and drift away from their class (`drift`), from the very first query on.

    Counters are shared by all who ask, as published, or kept per account. Shared ones can be filled by one attacker for
    everybody; counters per account can be evaded with many accounts.

    Parameters:
        threshold: tau, from which a class is reversed; at most 1 is meant, ``inf`` never reverses.
        record_radius: r, in units of the plane.
        record_ratio: r / rho instead of r, the same for all classes and free of the plane's scale.
        alpha: steepness of the sensitivity.
        beta: sensitive radius over the mean distance of training points from their center.
        drift_step: length of a step in feature space.
        drift_steps: most steps.
        shadows: S, how many shadow models there are.
        drawn: k, how many of them a reversed query sees, drawn by its pixels.
        shadow_space: what is averaged; ``logits`` is the published code to the letter, a scale mistake.
        arch: architecture of the shadows; the victim's where it is None (published: a smaller one of its family).
        shadow_epochs: how long each is trained.
        mapping: shape of the plane; ``disc``, ``circle`` or ``raw`` (see `MappingNetwork`).
        mapping_divisor: by how much each layer of the mapping network is narrower than the one before.
        mapping_optimizer, mapping_lr: ``sgd`` and 0.0001 are published, and hardly move it.
        mapping_epochs, mapping_steps: it is trained for so many epochs, and at least so many steps.
        mapping_batch: images per step; 5000 published.
        scope: whose queries a counter counts: ``global`` or ``account``.

    Features of an int8 victim are those of its simulated form.

    From the authors' public code, as the paper's text was not at hand. Training images are used as they are, not
    augmented; the plane's radii come from all of them.

    Raises:
        OptionError: parameters outside their limits; a victim whose features cannot be read, or whose architecture cannot
            be built where ``arch`` is None.
        DataError: training images of other classes or shape than the victim's, or none for some class.
    """

    threshold: float = 0.2
    record_radius: float = 0.005
    record_ratio: float | None = None
    alpha: float = 1.0
    beta: float = 1.0
    drift_step: float = 0.05
    drift_steps: int = 20
    shadows: int = 10
    drawn: int = 5
    shadow_space: Space = "probabilities"
    arch: str | None = None
    shadow_epochs: int = 1
    mapping: Shape = "disc"
    mapping_divisor: int = 4
    mapping_optimizer: Optimizer = "adamw"
    mapping_lr: float = 0.01
    mapping_epochs: int = 100
    mapping_steps: int = 1000
    mapping_batch: int = 512
    scope: Literal["global", "account"] = "global"

    paper: ClassVar[str] = "Chen et al., QUEEN: Query Unlearning against Model Extraction, TIFS 2025, arXiv:2407.01251"
    needs: ClassVar[frozenset[str]] = frozenset({"inputs", "training"})
    stateful: ClassVar[bool] = True
    exportable: ClassVar[bool] = False
    identity: ClassVar[dict[str, Any] | None] = {"threshold": math.inf, "drift_steps": 0}

    def __post_init__(self) -> None:
        positive = ("record_radius", "alpha", "beta", "mapping_lr")
        whole = ("shadows", "drawn", "shadow_epochs", "mapping_epochs", "mapping_batch")
        for name in positive:
            self._require(name, 0 < getattr(self, name) < math.inf, "a positive number")
        for name in whole:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("threshold", self.threshold >= 0, "0 or more, such as 0.2")
        self._require("record_ratio", self.record_ratio is None or 0 < self.record_ratio <= 1, "a share in (0, 1]")
        self._require("drift_step", 0 <= self.drift_step < math.inf, "0 or more, such as 0.05")
        self._require("drift_steps", self.drift_steps >= 0, "0 or more, such as 20")
        self._require("drawn", self.drawn <= self.shadows, f"at most shadows={self.shadows}")
        self._require("mapping_divisor", self.mapping_divisor >= 2, "at least 2")
        self._require("mapping_steps", self.mapping_steps >= 0, "0 or more")
        self._require("mapping_batch", self.mapping_batch >= 2, "at least 2, as the loss compares images")

    def reach(self, radius: Tensor) -> Tensor:
        """Radius r of a record in regions of radius rho, [N] -> [N]."""
        if self.record_ratio is not None:
            return self.record_ratio * radius
        return radius.new_full(radius.shape, self.record_radius)

    def prepare(self, preparation: Preparation) -> PreparedQueen:
        """Train the mapping network and the shadows, measure the regions; counters start at zero."""
        predictor, train, seed = preparation.predictor, preparation.train, preparation.seed
        features = VictimFeatures(predictor, self.spec)
        check_training_images(train, predictor, self.spec)
        shadows = train_shadows(preparation, self.arch, self.shadows, epochs=self.shadow_epochs)
        phi = features.read(train)
        mapping = train_mapping(phi, train.labels, self._mapping(), seed=seed, device=preparation.device)
        plane = SensitivePlane(mapping, predictor.num_classes)
        plane.measure(phi, train.labels, self.beta)
        draws = derive(seed, "queen", "draws")
        ready = PreparedQueen(self, predictor, features=features, plane=plane, shadows=shadows, seed=draws)
        ready.centers.copy_(class_means(phi, train.labels, predictor.num_classes))
        return ready.ready(preparation.device)

    def skeleton(self, predictor: Predictor, facts: Mapping[str, Any]) -> PreparedQueen:
        """QUEEN for the same victim, with tensors of any values."""
        features = VictimFeatures(predictor, self.spec)
        mapping = create_mapping(features.width, self._mapping(), seed=0)
        return PreparedQueen(
            self,
            predictor,
            features=features,
            plane=SensitivePlane(mapping, predictor.num_classes),
            shadows=blank_shadows(predictor, facts, self.shadows),
            seed=0,
        )

    def _mapping(self) -> MappingSettings:
        return MappingSettings(
            shape=self.mapping,
            divisor=self.mapping_divisor,
            optimizer=self.mapping_optimizer,
            lr=self.mapping_lr,
            epochs=self.mapping_epochs,
            steps=self.mapping_steps,
            batch_size=self.mapping_batch,
        )

    def _require(self, name: str, condition: bool, expected: str) -> None:
        require(condition, f"queen:{name}={getattr(self, name)}: expected {expected}")
