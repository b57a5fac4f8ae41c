from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelmoat.assessment.robustness import RobustnessProbe, differentiable
from modelmoat.core.errors import OptionError, RunError
from modelmoat.core.records import Record
from modelmoat.data import ImageSet, load, load_splits
from modelmoat.defenses import create_defense
from modelmoat.models import ModelCard, TorchPredictor, create_network, load_artifact, load_model
from modelmoat.quantization import restore_simulated
from modelmoat.training import as_float
from modelmoat.training.evasion import parse_evasion
from modelmoat.victims import CleanAnswers, ReplayPredictor, Victim

FIELDS = ("robust_attack", "robust_epsilon", "robust_norm", "robust_size")
SHARES = ("robust_accuracy", "clone_robust_accuracy", "transfer")
EPSILON = 0.05


class Linear(nn.Module):
    """Class 1 where w x > 0 for images around gray."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def margin(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.weight

    def forward(self, images: Tensor) -> Tensor:
        margin = self.margin(images)
        return torch.stack([-margin, margin], dim=1)


def weights(seed: int) -> Tensor:
    return torch.randn(16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gray() -> ImageSet:
    """300 images far from black and white; one label in five is not what the victim of `weights(0)` says."""
    draw = torch.Generator().manual_seed(7)
    images = torch.randint(80, 176, (300, 1, 4, 4), dtype=torch.uint8, generator=draw)
    labels = (Linear(weights(0)).margin(images.float() / 255) > 0).long()
    flipped = torch.rand(300, generator=draw) < 0.2
    return ImageSet(images, torch.where(flipped, 1 - labels, labels), ("no", "yes"), "gray")


def predictor(network: nn.Module, **options: Any) -> TorchPredictor:
    return TorchPredictor(network, num_classes=2, input_shape=(1, 4, 4), **options)


def probe(victim: TorchPredictor, test: ImageSet, most: int = 1000, **options: Any) -> RobustnessProbe:
    return RobustnessProbe(parse_evasion(f"pgd:epsilon={EPSILON}"), victim, test, most=most, **options)


def signed(network: Linear, test: ImageSet) -> Tensor:
    """How far a network is on the side of the label; right where positive."""
    with torch.no_grad():
        return network.margin(test.images.float() / 255) * (2 * test.labels - 1)


def test_on_linear_models_all_three_shares_are_known(gray: ImageSet) -> None:
    """A step against the clone's weights moves the victim by epsilon times w_victim . sign(w_clone)."""
    own, clone = Linear(weights(0)), Linear(weights(0) + 0.8 * weights(1))
    victim = Victim(predictor(own))
    found = probe(victim.predictor, gray).measure(victim, clone, victim.serve(gray.images).values)
    right = signed(own, gray) > 0
    assert found.robust_accuracy == pytest.approx(
        float((signed(own, gray) > EPSILON * weights(0).abs().sum()).double().mean())
    )
    assert found.clone_robust_accuracy == pytest.approx(
        float((signed(clone, gray) > EPSILON * clone.weight.detach().abs().sum()).double().mean())
    )
    moved = signed(own, gray) - EPSILON * float(weights(0) @ clone.weight.detach().sign())
    assert found.transfer == pytest.approx(float((moved[right] <= 0).double().mean()))
    assert 0.1 < found.transfer < 0.9
    assert 0 < found.robust_accuracy < float(right.double().mean())
    described = (found.robust_attack, found.robust_epsilon, found.robust_norm, found.robust_size)
    assert described == (f"pgd:epsilon={EPSILON}", EPSILON, "linf", 300)


def test_a_clone_that_is_the_victim_transfers_all_there_is(gray: ImageSet) -> None:
    own = Linear(weights(0))
    victim = Victim(predictor(own))
    found = probe(victim.predictor, gray).measure(victim, own, victim.serve(gray.images).values)
    right = float((signed(own, gray) > 0).double().mean())
    assert found.robust_accuracy is not None
    assert found.transfer == pytest.approx(1 - found.robust_accuracy / right)
    assert found.clone_robust_accuracy == found.robust_accuracy


def test_what_transfers_is_judged_by_the_served_answers(gray: ImageSet) -> None:
    own = Linear(weights(0))
    plain = Victim(predictor(own))

    class Stubborn:
        """Answers class 1, always; counts what it is asked."""

        stateful, spec = True, "stubborn"

        def __init__(self) -> None:
            self.asked = 0

        def respond(self, clean: CleanAnswers) -> Tensor:
            self.asked += len(clean.probabilities)
            return torch.tensor([[0.1, 0.9]]).expand(len(clean.probabilities), 2)

    victim = Victim(plain.predictor, defense=Stubborn()).with_ledger(1)
    found = probe(plain.predictor, gray).measure(victim, own, torch.tensor([[0.1, 0.9]]).expand(300, 2))
    assert found.transfer == 0
    assert found.robust_accuracy is not None
    assert found.robust_accuracy < 0.8, "the undefended network's own"
    assert victim.defense.asked == 0, "a copy was asked"  # type: ignore[union-attr]
    assert victim.ledger.sent == 0
    label = Victim(plain.predictor, output="label")
    found = probe(plain.predictor, gray).measure(label, own, label.serve(gray.images).values)
    assert found.transfer is not None
    assert found.transfer > 0


def test_no_right_answer_leaves_nothing_to_transfer(gray: ImageSet) -> None:
    own = Linear(weights(0))
    victim = Victim(predictor(own))
    wrong = torch.eye(2)[1 - gray.labels]
    assert probe(victim.predictor, gray).measure(victim, own, wrong).transfer is None


def test_some_images_stand_for_all_and_are_always_the_same(gray: ImageSet) -> None:
    own = Linear(weights(0))
    victim = Victim(predictor(own))
    served = victim.serve(gray.images).values
    told: list[tuple[str, int, int]] = []
    first = probe(victim.predictor, gray, 50, progress=lambda *words: told.append(words)).measure(victim, own, served)
    torch.manual_seed(3)
    assert probe(victim.predictor, gray, 50).measure(victim, own, served) == first
    assert first.robust_size == 50
    assert told == [("attack on the clone", 50, 50), ("attack on the victim", 50, 50)]


def test_a_model_that_gives_probabilities_is_attacked_through_them(gray: ImageSet) -> None:
    own = Linear(weights(0))
    soft = predictor(nn.Sequential(own, nn.Softmax(dim=1)), outputs="probabilities")
    hard = predictor(own)
    results = [
        probe(model, gray).measure(Victim(model), own, Victim(model).serve(gray.images).values)
        for model in (soft, hard)
    ]
    assert results[0] == results[1]


def test_models_without_gradients_have_no_robust_accuracy(gray: ImageSet, tiny_victim: Path) -> None:
    class Rounded(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward((images * 255).round().to(torch.int32).float() / 255)

    class Detached(Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach()

    images = gray.images[:1].float() / 255
    for kind in (Rounded, Detached):
        model = predictor(kind(weights(0)))
        assert differentiable(model, images) is None
        with pytest.warns(UserWarning, match=r"--robust pgd.* 'memory' gives no gradients.*; fix: give the torch"):
            asked = probe(model, gray)
        found = asked.measure(Victim(model), Linear(weights(0)), Victim(model).serve(gray.images).values)
        assert found.robust_accuracy is None
        assert found.transfer is not None
        assert found.transfer > 0
    assert differentiable(load_model(str(tiny_victim)), torch.zeros(1, 1, 8, 8)) is not None


def test_a_file_of_its_own_has_no_robust_accuracy(int8_victim: tuple[Path, ModelCard]) -> None:
    predictor = load_model(str(int8_victim[0] / "model.onnx"))
    with pytest.warns(UserWarning, match=r"model '.*model.onnx' gives no gradients.*robust_accuracy stays empty"):
        asked = RobustnessProbe(parse_evasion("fgsm"), predictor, load("digits,split=test"), most=10)
    clone = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0)
    victim = Victim(predictor)
    found = asked.measure(victim, clone, victim.serve(load("digits,split=test").images).values)
    assert found.robust_accuracy is None


def test_an_int8_victim_is_attacked_through_its_simulated_form(
    int8_victim: tuple[Path, ModelCard], tiny_victim: Path, run: Callable[..., list[Record]]
) -> None:
    """Crafted through the rounding, judged by the graph that answers."""
    evasion = parse_evasion("fgsm:epsilon=0.1")
    (record,) = run(victim=str(int8_victim[0]), budgets=(10,), robust=evasion, robust_images=1000)
    test = load_splits("digits,pool=0.4").test
    images, simulated, served = (
        as_float(test.images),
        restore_simulated(int8_victim[0]),
        load_model(str(int8_victim[0])),
    )
    crafted = evasion.craft(simulated, images, test.labels, torch.Generator())
    right = [served.predict(shown).argmax(dim=1) == test.labels for shown in (images, crafted)]
    assert record.robust_size == len(test)
    assert record.robust_accuracy == pytest.approx(float((right[0] & right[1]).double().mean()))
    assert record.robust_accuracy < record.victim_accuracy - 0.2
    network, _ = load_artifact(tiny_victim)
    borrowed = evasion.craft(network, images, test.labels, torch.Generator())
    lent = float((right[0] & (served.predict(borrowed).argmax(dim=1) == test.labels)).double().mean())
    assert record.robust_accuracy == pytest.approx(lent, abs=0.03), "gradients are as good as those in float32"


def test_a_recorded_victim_is_refused(gray: ImageSet) -> None:
    recorded = ReplayPredictor.__new__(ReplayPredictor)
    recorded.reference = "replay:answers.journal"
    with pytest.raises(OptionError, match=r"--robust pgd.*recorded inputs only.*fix: leave --robust out"):
        RobustnessProbe(parse_evasion("pgd"), recorded, gray, most=10)


def test_records_have_robustness_where_it_was_asked_for(
    run: Callable[..., list[Record]], lasting: Callable[[Record], dict[str, Any]], tmp_path: Path
) -> None:
    asked = {"robust": parse_evasion("pgd:epsilon=0.1,steps=3"), "robust_images": 40}
    defenses = (create_defense("none"), create_defense("rounding", decimals=1))
    plain, *_ = run(out=tmp_path / "plain", budgets=(25,))
    assert {getattr(plain, name) for name in (*FIELDS, *SHARES)} == {None}
    small, large, behind, _ = run(defenses=defenses, **asked)
    assert [getattr(large, name) for name in FIELDS] == ["pgd:epsilon=0.1,steps=3", 0.1, "linf", 40]
    assert all(0 <= getattr(record, name) <= 1 for record in (small, large, behind) for name in SHARES)
    assert small.robust_accuracy == large.robust_accuracy == behind.robust_accuracy < large.victim_accuracy
    assert small.cell != plain.cell != large.cell
    assert [lasting(record) for record in run(out=tmp_path / "again", defenses=defenses, **asked)][:2] == [
        lasting(small),
        lasting(large),
    ]


def test_robustness_is_part_of_the_setting_of_a_folder(run: Callable[..., list[Record]]) -> None:
    run(budgets=(10,))
    with pytest.raises(RunError, match=r"robust was None and is now 'pgd:steps=2 on 10 images'.*another --out"):
        run(budgets=(10,), robust=parse_evasion("pgd:steps=2"), robust_images=10)


def test_too_few_images_are_refused(spec: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="robust_images=0: expected at least 1"):
        spec(robust_images=0)
