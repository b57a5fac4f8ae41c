from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelmoat.assessment.insight import DefenseInsight
from modelmoat.attacks import ATTACKS, Attack, Theft, Thief
from modelmoat.attacks.thief import StageProgress
from modelmoat.data import ImageSet, load
from modelmoat.defenses import Preparation, parse_defense
from modelmoat.models import Predictor, load_model
from modelmoat.training import FitSettings
from modelmoat.victims import Answers, Ledger, OutputFormat, Victim

SEEDS = 6
QUICK: dict[str, Any] = {"seeds": SEEDS, "round_epochs": 1, "iterations": 2} | {  # the rest: data-free attacks
    "batch_size": 8, "latent": 4, "horizon": 100, "replay": 16, "replay_steps": 1, "directions": 1,
    "generator_steps": 1, "epoch_batches": 2, "proxy_images": 16, "gan_epochs": 1, "tune_epochs": 1, "start": 8,
    "noise": 2, "halvings": 1, "moves": 1,
}  # fmt: skip
QUICK |= {
    "first": 14,
    "round_steps": 5,
    "deepfool_most": 20,
    "steps": 5,
    "batch": 8,
}  # pool-based, semi-supervised attacks
FIT = FitSettings(epochs=1, min_steps=5, lr=0.05, precision="float32")


class AskedModel:
    """A model that keeps what reaches it."""

    def __init__(self, model: Predictor) -> None:
        self._model = model
        self.inputs: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, inputs: Tensor) -> Tensor:
        self.inputs.extend(inputs)
        return self._model.predict(inputs)


class WatchedVictim:
    """A victim that keeps what is sent to it, and lets an attack see nothing but the promised interface."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._sent: list[Tensor] = []
        self.accounts: set[str] = set()

    @property
    def num_classes(self) -> int:
        return self._victim.num_classes

    @property
    def output(self) -> OutputFormat:
        return self._victim.output

    @property
    def ledger(self) -> Ledger:
        return self._victim.ledger

    @property
    def sent(self) -> Tensor:
        return torch.cat(self._sent)

    def query(self, inputs: Tensor, account: str = "default") -> Answers:
        answers = self._victim.query(inputs, account)
        self._sent.append(inputs.div(255) if inputs.dtype == torch.uint8 else inputs.clone())
        self.accounts.add(account)
        return answers


@dataclass
class Heist:
    """One attack on a watched victim; ``answered`` are the inputs that reached the model itself."""

    victim: WatchedVictim
    model: AskedModel
    thefts: list[Theft] = field(default_factory=list)

    @property
    def sent(self) -> Tensor:
        return self.victim.sent

    @property
    def answered(self) -> int:
        return len(self.model.inputs)

    def weights(self, index: int = -1) -> dict[str, Tensor]:
        clone = self.thefts[index].clone
        assert clone is not None
        return clone.state_dict()


class Steal:
    """Runs attacks; the running heist is kept in ``last``, whatever interrupts it."""

    def __init__(self, model: Predictor, pool: ImageSet) -> None:
        self.model, self.pool = model, pool
        self.last: Heist | None = None

    def __call__(
        self,
        attack: Attack,
        budgets: Sequence[int],
        *,
        seed: int = 0,
        output: str | None = None,
        defense: str = "none",
        limit: int | None = None,
        journal: Path | None = None,
        pool: ImageSet | None = None,
        fit: FitSettings = FIT,
        clone_arch: str = "small_cnn",
        wanted: frozenset[int] | None = None,
        progress: StageProgress | None = None,
    ) -> Heist:
        model = AskedModel(self.model)
        usual = OutputFormat("probabilities" if "probabilities" in attack.outputs else min(attack.outputs))
        method = parse_defense(defense)
        ready = method.prepare(Preparation(predictor=self.model, train=self.pool, seed=seed))
        inner = Victim(model, defense=ready, output=output or usual).with_ledger(limit, journal)
        victim = WatchedVictim(inner)
        self.last = heist = Heist(victim, model)
        thief = Thief(
            victim=victim,
            pool=pool or self.pool,
            clone_arch=clone_arch,
            fit=fit,
            seed=seed,
            wanted=wanted,
            progress=progress,
            insight=DefenseInsight(method, Victim(self.model, defense=ready)),
        )
        heist.thefts.extend(attack.run(thief, budgets))
        return heist


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmoat.attacks._jacobian._ROUND_STEPS", 5)


@pytest.fixture(scope="session")
def pool() -> ImageSet:
    return load("digits,pool=0.4,split=pool")


@pytest.fixture(scope="session")
def model(tiny_victim: Path) -> Predictor:
    return load_model(str(tiny_victim))


@pytest.fixture
def steal(model: Predictor, pool: ImageSet) -> Steal:
    return Steal(model, pool)


@pytest.fixture
def quick() -> Callable[..., Attack]:
    """Build an attack by name, with few seeds and short rounds where it has such."""

    def build(name: str, **parameters: Any) -> Attack:
        cls = ATTACKS.get(name)
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in QUICK.items() if key in known} | parameters)

    return build


@pytest.fixture
def same() -> Callable[[dict[str, Tensor], dict[str, Tensor]], bool]:
    """Whether two sets of weights are equal to the last bit."""
    return lambda a, b: a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
