"""QUEEN as a whole, on a small network that knows the digits."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from modelmoat.core.errors import DataError, InvalidAnswer, ModelError, OptionError
from modelmoat.data import Splits, load, load_splits
from modelmoat.defenses import Preparation, parse_defense, saved_state
from modelmoat.defenses._noise import input_seeds
from modelmoat.defenses._queen_ready import EVERYONE, PreparedQueen
from modelmoat.defenses._queen_reversal import reverse
from modelmoat.defenses._queen_shadows import draw_members
from modelmoat.defenses.queen import Queen
from modelmoat.models import Classifier, TorchPredictor, create_network
from modelmoat.training import FitSettings, as_float, fit
from modelmoat.victims import CleanAnswers, Victim
from modelmoat.victims.clean import clean_answers

CHEAP = Queen(mapping_steps=300, mapping_epochs=1, shadows=3, drawn=2, record_ratio=0.2)


@cache
def splits() -> Splits:
    return load_splits("digits")


@cache
def victim() -> TorchPredictor:
    network = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0, mean=(0.3,), std=(0.4,))
    fit(network, splits().train, splits().train.labels, FitSettings(epochs=6), seed=0)
    return TorchPredictor(network, reference="digits-victim")


@cache
def prepared(queen: Queen) -> PreparedQueen:
    return queen.prepare(Preparation(predictor=victim(), train=splits().train, seed=1))


def fresh(**changes: object) -> PreparedQueen:
    """A defense without history; the networks do not depend on the changed parameters."""
    ready = copy.deepcopy(prepared(CHEAP))
    queen = replace(CHEAP, **changes)
    ready.method = ready.queen = queen
    return ready


def held_out() -> Tensor:
    return as_float(splits().test.images)


def stream(count: int, seed: int = 0) -> Tensor:
    """What an attacker with images like the victim's sends: training images with a little noise."""
    draw = torch.Generator().manual_seed(seed)
    images = as_float(splits().train.images)
    chosen = images[torch.randint(len(images), (count,), generator=draw)]
    return (chosen + 0.03 * torch.randn(chosen.shape, generator=draw)).clamp(0, 1)


def ask(ready: PreparedQueen, images: Tensor, account: str = "someone") -> Tensor:
    return ready.respond(clean_answers(victim(), images, account))


@torch.no_grad()
def by_the_book(ready: PreparedQueen, images: Tensor) -> tuple[Tensor, list[str], list[float]]:
    """Answer one query after the other, as the specification of the method reads."""
    queen, plane, network = ready.queen, ready.plane, victim().network
    assert isinstance(network, Classifier)
    counters, records = [0.0] * 10, [[] for _ in range(10)]
    rows, kinds = [], []
    for x in images[:, None]:
        z = network.features(x)[0]
        p = torch.softmax(network.head(z), dim=0)
        c = int(p.argmax())
        u, rho = plane.mapping(z[None])[0], float(plane.radii[c])
        d, r = float((u - plane.centers[c]).norm()), queen.record_ratio * rho
        sensitive = d < rho and all(float((u - v).norm()) > r for v in records[c])
        if sensitive and counters[c] > queen.threshold:
            chosen = draw_members(input_seeds(x, ready._seed), queen.shadows, queen.drawn)[0].nonzero()[:, 0]
            answers = [torch.softmax(ready.shadows.members[int(m)](x)[0], dim=0) for m in chosen]
            wanted = (2 * torch.stack(answers).mean(dim=0) - p).clamp_min(0)
            rows.append(wanted / wanted.sum())
            kinds.append("reversed")
            continue
        if sensitive:
            records[c].append(u)
            s = 0.5 * math.erfc(queen.alpha * (d - rho) / rho)
            counters[c] += s**2 * (r / rho) ** 2
        far = ready.centers[int(torch.cdist(z[None], ready.centers)[0].argmax())]
        way = (far - z) / (far - z).norm()
        for _ in range(queen.drift_steps):
            if int(network.head(z + queen.drift_step * way).argmax()) != c:
                break
            z = z + queen.drift_step * way
        rows.append(torch.softmax(network.head(z), dim=0))
        kinds.append("recorded" if sensitive else "kept")
    return torch.stack(rows), kinds, counters


@cache
def book() -> tuple[Tensor, Tensor, list[str], list[float]]:
    images = torch.cat([stream(420), stream(420)[100:180]])  # some are asked again
    return (images, *by_the_book(prepared(CHEAP), images))


@pytest.mark.parametrize("size", [1, 64, 500])
def test_a_batch_is_answered_as_its_queries_one_after_another(size: int) -> None:
    images, expected, kinds, counters = book()
    assert {kind: kinds.count(kind) > 20 for kind in kinds} == {"recorded": True, "kept": True, "reversed": True}
    ready = fresh()
    answers = torch.cat([ask(ready, part) for part in images.split(size)])
    torch.testing.assert_close(answers, expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(ready.state.counter(EVERYONE), torch.tensor(counters), atol=1e-4, rtol=0)
    assert ready.reversed_share() == pytest.approx(kinds.count("reversed") / 500)


def test_every_answer_is_on_the_simplex_and_only_reversed_ones_change_the_label() -> None:
    ready, images = fresh(), stream(1500)
    clean = clean_answers(victim(), images, "someone")
    rows = ready.respond(clean)
    assert rows.min() >= 0
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(1500))
    changed = rows.argmax(dim=1) != clean.probabilities.argmax(dim=1)
    assert 0 < int(changed.sum()) <= ready.state.served[0, 1]
    assert int(changed.sum()) > 0.8 * ready.state.served[0, 1], "a reversed answer should rarely keep its label"


def test_inputs_like_the_training_images_are_more_sensitive_than_others() -> None:
    ready = fresh()
    patches = as_float(load("photo-patches,size=8,grey,n=600,test=0").images)

    def located(images: Tensor) -> tuple[Tensor, float]:
        clean = clean_answers(victim(), images, "someone")
        queries = ready.locate(clean.probabilities, ready._features.read(images))
        return queries.gain, float(queries.inside.float().mean())

    known, known_inside = located(held_out())
    foreign, foreign_inside = located(patches)
    order = float((known[:, None] > foreign).float().mean())
    assert order > 0.7, f"a digit is more sensitive than a patch in {order:.0%} of pairs"
    assert known_inside > 2 * foreign_inside
    assert 0.5 < located(stream(1000))[1] < 0.8, "a region of the mean radius holds a good half of its class"


def test_benign_users_keep_their_labels_before_any_stream_and_lose_some_after_it() -> None:
    ready = fresh(record_ratio=0.05)  # some 100 records before a counter is full
    images, labels = held_out(), splits().test.labels
    clean = clean_answers(victim(), images, "benign").probabilities.argmax(dim=1)
    assert torch.equal(ask(copy.deepcopy(ready), images).argmax(dim=1), clean)
    ask(ready, stream(6000))
    assert (ready.state.counter(EVERYONE) > 0.2).all()
    after = ask(ready, images).argmax(dim=1)
    lost = float((clean == labels).float().mean() - (after == labels).float().mean())
    assert 0.02 < lost < 0.6
    inside = ready.locate(clean_answers(victim(), images, "benign").probabilities, ready._features.read(images)).inside
    assert torch.equal(after[~inside], clean[~inside]), "outside the regions labels stay"


def test_a_long_stream_of_new_queries_is_reversed_more_and_more_up_to_the_sensitive_share() -> None:
    ready = fresh()
    shares = []
    for seed in range(5):
        before = ready.state.served.sum(dim=0) if len(ready.state.served) else torch.zeros(2)
        ask(ready, stream(400, seed=seed))
        answered, turned = (ready.state.served.sum(dim=0) - before).tolist()
        shares.append(turned / answered)
    assert shares[0] < shares[1]
    assert min(shares[2:]) > 0.1
    frozen = ready.state.counter(EVERYONE)
    assert (frozen > 0.2).sum() >= 9
    ask(ready, stream(400, seed=9))
    full = frozen > 0.2
    assert torch.equal(ready.state.counter(EVERYONE)[full], frozen[full]), "a full counter stays as it is"


def test_reversed_answers_follow_the_formula_of_the_shadows() -> None:
    for space in ("probabilities", "logits"):
        ready = fresh(threshold=0.0, shadow_space=space, drawn=3)
        ask(ready, stream(200))
        images = stream(300, seed=3)
        clean = clean_answers(victim(), images, "someone")
        rows = ready.respond(clean)
        with torch.no_grad():
            logits = torch.stack([member(images) for member in ready.shadows.members])
        expected = reverse(
            (logits.softmax(dim=2) if space == "probabilities" else logits).mean(dim=0), clean.probabilities
        )
        turned = (rows - expected).abs().amax(dim=1) < 1e-5
        assert int(turned.sum()) == int(ready.state.served[0, 1]) - reversed_before(ready, 200)
        assert int(turned.sum()) > 50


def reversed_before(ready: PreparedQueen, count: int) -> int:
    again = fresh(threshold=ready.queen.threshold, drawn=ready.queen.drawn)
    ask(again, stream(count))
    return int(again.state.served[0, 1])


def test_the_same_pixels_are_always_answered_in_the_same_way() -> None:
    ready, images = fresh(), stream(500)
    first = ask(ready, images)
    counters = ready.state.counter(EVERYONE)
    ask(ready, stream(2000, seed=8))
    again = ask(ready, images)
    torch.testing.assert_close(again, first, atol=1e-5, rtol=0)
    assert counters.sum() > 0


def test_counters_are_shared_or_kept_per_account() -> None:
    images = stream(800)
    alone = ask(fresh(), images, "me")
    shared, separate = fresh(), fresh(scope="account")
    for ready in (shared, separate):
        ask(ready, stream(2000, seed=5), "another")
    assert torch.equal(ask(separate, images, "me"), alone)
    assert not torch.equal(ask(shared, images, "me"), alone)
    assert separate.state.accounts == ["another", "me"]
    assert shared.state.accounts == [EVERYONE]
    assert separate.reversed_share("me") < separate.reversed_share("another")
    assert separate.reversed_share("nobody") == 0


@pytest.mark.parametrize("scope", ["global", "account"])
def test_a_saved_defense_goes_on_as_if_nothing_had_happened(scope: str) -> None:
    ready = fresh(scope=scope)
    ask(ready, stream(500), "a")
    ask(ready, stream(300, seed=1), "b/ü")
    restored = ready.queen.restore(victim(), load_tensors(save_tensors(saved_state(ready))))
    assert isinstance(restored, PreparedQueen)
    assert restored.state.accounts == ready.state.accounts
    for account in ("a", "b/ü", "c"):
        images = stream(400, seed=7)
        assert torch.equal(ask(restored, images, account), ask(ready, images, account))
    assert torch.equal(restored.state.records, ready.state.records)
    assert torch.equal(restored.state.served, ready.state.served)


def test_a_live_defense_takes_over_a_saved_state() -> None:
    ready, other = fresh(), fresh()
    ask(ready, stream(900))
    other.load_state_dict(ready.state_dict())
    images = stream(300, seed=2)
    assert torch.equal(ask(other, images), ask(ready, images))


def test_states_of_another_victim_or_of_other_parameters_are_refused() -> None:
    tensors = saved_state(prepared(CHEAP))
    network = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=5)
    with pytest.raises(ModelError, match=r"victim with digest"):
        CHEAP.restore(TorchPredictor(network), tensors)
    with pytest.raises(ModelError, match=r"saved state is of defense 'queen:.*'"):
        replace(CHEAP, threshold=0.5).restore(victim(), tensors)
    with pytest.raises(ModelError, match=r"does not fit"):
        CHEAP.restore(victim(), {name: value for name, value in tensors.items() if name != "centers"})


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def test_victims_without_features_are_refused() -> None:
    foreign = TorchPredictor(Foreign(), num_classes=10, input_shape=(1, 8, 8), reference="theirs")
    with pytest.raises(OptionError, match=r"needs the features.*'theirs' has a Foreign; fix:"):
        CHEAP.prepare(Preparation(predictor=foreign, train=splits().train))
    recorded = type("Recorded", (), {"reference": "replay:file", "num_classes": 10, "input_shape": None})()
    with pytest.raises(OptionError, match=r"'replay:file' has no network"):
        CHEAP.prepare(Preparation(predictor=recorded, train=splits().train))


def test_training_images_must_cover_every_class() -> None:
    train = splits().train
    without = train.take((train.labels != 4).nonzero()[:, 0])
    with pytest.raises(DataError, match=r"1 of 10 classes have no training images \(first: class 4, '4'\)"):
        CHEAP.prepare(Preparation(predictor=victim(), train=without))
    with pytest.raises(DataError, match=r"shape"):
        CHEAP.prepare(Preparation(predictor=victim(), train=load("digits,size=16")))
    with pytest.raises(DataError, match=r"2 classes"):
        CHEAP.prepare(Preparation(predictor=victim(), train=load("photo-patches,size=8,grey,n=50")))


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (torch.full((2, 10), torch.nan), InvalidAnswer),
        (torch.ones(2, 1), InvalidAnswer),
        (torch.full((2, 3), 1 / 3), ModelError),
        (torch.full((2, 10), 0.5), InvalidAnswer),
        (torch.full((3, 10), 0.1), DataError),
        (torch.empty(0, 10), DataError),
    ],
)
def test_answers_that_are_none_are_refused_and_leave_no_trace(rows: Tensor, error: type[Exception]) -> None:
    ready = fresh()
    inputs = torch.zeros(2 if len(rows) else 0, 1, 8, 8)
    with pytest.raises(error, match=r"fix:"):
        ready.respond(CleanAnswers(rows, inputs, "someone"))
    assert ready.state.accounts == []


@pytest.mark.parametrize(
    "text",
    [
        "threshold=-1",
        "threshold=nan",
        "record_radius=0",
        "record_ratio=1.5",
        "alpha=0",
        "beta=0",
        "drift_step=-0.1",
        "drift_steps=-1",
        "shadows=0",
        "drawn=11",
        "shadow_space=odds",
        "shadow_epochs=0",
        "mapping=ball",
        "mapping_divisor=1",
        "mapping_lr=0",
        "mapping_batch=1",
        "scope=planet",
    ],
)
def test_impossible_parameters_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=f"queen:{text.split('=')[0]}"):
        parse_defense(f"queen:{text}")


def test_unprepared_it_does_not_answer() -> None:
    with pytest.raises(OptionError, match="prepare"):
        Queen().respond(clean_answers(victim(), stream(2), "someone"))
    with pytest.raises(OptionError, match="exported graph"):
        fresh().forward(torch.full((1, 10), 0.1), torch.zeros(1, 1, 8, 8))


def test_published_settings_of_the_plane_and_an_architecture_of_the_shadows_can_be_chosen() -> None:
    queen = Queen(
        mapping="raw", mapping_optimizer="sgd", mapping_lr=1e-4, mapping_epochs=1, mapping_steps=2, mapping_batch=5000,
        shadows=1, drawn=1, shadow_space="logits", arch="resnet20",
    )  # fmt: skip
    ready = prepared(queen)
    assert ready.shadows.facts()["arch"] == "resnet20"
    assert len(ask(copy.deepcopy(ready), stream(20))) == 20
    assert parse_defense(queen.spec) == queen


def test_the_same_seed_prepares_the_same_defense_and_another_seed_another() -> None:
    quick = replace(CHEAP, mapping_steps=5, shadows=2)
    first, again, other = (
        quick.prepare(Preparation(predictor=victim(), train=splits().train, seed=seed)) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(saved_state(first).values(), saved_state(again).values(), strict=True))
    assert not torch.equal(first.plane.radii, other.plane.radii)


def test_behind_the_boundary_a_replayed_query_leaves_the_same_trace() -> None:
    ready = fresh()
    served = Victim(victim(), defense=ready).query(stream(300)).values
    assert torch.equal(served, ask(fresh(), stream(300)))
    assert int(ready.state.served[0, 0]) == 300
