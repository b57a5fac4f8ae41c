from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmoat.core.errors import RunError, UnknownReference
from modelmoat.core.locks import LOCK_FILE, locked
from modelmoat.core.seeds import derive
from modelmoat.data import Splits, load_splits
from modelmoat.models import ModelCard, create_network, load_artifact, load_model
from modelmoat.recipes import RECIPES, TrainingJob, create_recipe, parse_recipe, train_victim
from modelmoat.recipes._ood import OodBatches
from modelmoat.training import FitSettings, TrainingDiverged, World, pixel_statistics
from modelmoat.victims import Victim

DATA = "digits,subset=300,pool=0.2"
FIT = FitSettings(epochs=3, batch_size=32, lr=0.05, precision="float32")
FINISHED = ["model.json", "model.safetensors", "training.jsonl"]
CHECKPOINTED = ["checkpoint.safetensors", "training.jsonl"]
MakeJob = Callable[..., TrainingJob]


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(DATA, seed=1)


@pytest.fixture
def make_job(tmp_path: Path, splits: Splits) -> MakeJob:
    def make(folder: str = "victim", **changes: Any) -> TrainingJob:
        job = TrainingJob(
            splits=splits, data=DATA, data_seed=1, arch="small_cnn", fit=FIT, seed=0, directory=tmp_path / folder
        )
        return replace(job, **changes)

    return make


def train(job: TrainingJob) -> ModelCard:
    return train_victim(create_recipe("standard"), job)


def kill_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, words: str) -> None:
        if done >= step:
            raise Killed

    return progress


def files(job: TrainingJob) -> list[str]:
    return sorted(path.name for path in job.directory.glob("*") if path.name != LOCK_FILE)


def test_an_artifact_is_as_accurate_as_its_card_says(make_job: MakeJob, splits: Splits) -> None:
    job = make_job()
    card = train(job)
    network, loaded = load_artifact(job.directory)
    assert loaded == card
    for name, images in (("test", splits.test), ("validation", splits.validation)):
        with torch.inference_mode():
            hits = network(images.images.float() / 255).argmax(1) == images.labels
        assert card.metrics[f"{name}_accuracy"] == pytest.approx(float(hits.float().mean()), abs=1e-6)
    victim = Victim(load_model(str(job.directory)))
    hits = victim.serve(splits.test.images).labels == splits.test.labels
    assert card.metrics["test_accuracy"] == pytest.approx(float(hits.float().mean()), abs=1e-6)
    assert card.metrics["test_accuracy"] > 0.4
    assert files(job) == FINISHED


def test_a_card_says_how_the_victim_was_trained(make_job: MakeJob, splits: Splits) -> None:
    job = make_job()
    card = train(job)
    assert (card.recipe, card.arch, card.data, card.data_seed) == ("standard", "small_cnn", DATA, 1)
    assert (card.mean, card.std) == pixel_statistics(splits.train)
    assert card.class_names == splits.train.class_names
    assert card.test_size == len(splits.test)
    assert splits.pool is not None
    assert card.data_digests == {
        "train": splits.train.digest,
        "validation": splits.validation.digest,
        "test": splits.test.digest,
        "pool": splits.pool.digest,
    }
    assert card.fingerprint == job.fingerprint(create_recipe("standard"))
    assert card.precision == "float32"


def test_the_seed_decides_the_weights(make_job: MakeJob) -> None:
    first = train(make_job("a"))
    torch.manual_seed(9)
    assert train(make_job("b")).weights_digest == first.weights_digest
    assert train(make_job("c", seed=1)).weights_digest != first.weights_digest


def test_initial_weights_come_from_the_seed_by_name(make_job: MakeJob) -> None:
    job = make_job(seed=4, fit=replace(FIT, epochs=1, lr=1e-12))
    train(job)
    untrained = create_network("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=derive(4, "weights"))
    assert torch.allclose(load_artifact(job.directory)[0].head.weight, untrained.head.weight, atol=1e-6)


@pytest.mark.parametrize(("step", "left"), [(3, []), (15, CHECKPOINTED), (30, CHECKPOINTED)])
def test_an_interrupted_training_gives_the_same_weights(make_job: MakeJob, step: int, left: list[str]) -> None:
    whole = train(make_job("whole"))
    job = make_job()
    with pytest.raises(Killed):
        train(replace(job, progress=kill_at(step)))
    assert files(job) == left
    card = train(job)
    assert card.weights_digest == whole.weights_digest
    assert card.metrics == whole.metrics
    assert files(job) == FINISHED


def test_a_training_killed_before_its_card_was_written_is_not_repeated(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, job = train(make_job("whole")), make_job()

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("modelmoat.models.artifact.write_text", dies)
        with pytest.raises(Killed):
            train(job)
    assert files(job) == ["checkpoint.safetensors", "model.safetensors", "training.jsonl"]
    assert train(replace(job, progress=kill_at(1))).weights_digest == whole.weights_digest
    assert files(job) == FINISHED


def test_a_finished_victim_is_not_trained_again(make_job: MakeJob) -> None:
    job = make_job()
    card = train(job)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.directory.iterdir()}
    (job.directory / "checkpoint.safetensors").write_text("left by a process that was killed after it wrote the card")
    assert train(replace(job, progress=kill_at(1))) == card
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in job.directory.iterdir()} == before


@pytest.mark.parametrize("change", ["seed", "epochs", "arch", "data"])
@pytest.mark.parametrize("finished", [True, False])
def test_another_training_in_the_same_folder_is_refused(make_job: MakeJob, change: str, finished: bool) -> None:
    job = make_job()
    if finished:
        train(job)
    else:
        with pytest.raises(Killed):
            train(replace(job, progress=kill_at(15)))
    before = {path.name: path.read_bytes() for path in job.directory.iterdir()}
    changes: dict[str, Any] = {
        "seed": {"seed": 1},
        "epochs": {"fit": replace(FIT, epochs=4)},
        "arch": {"arch": "resnet20"},
        "data": {"splits": load_splits("digits,subset=300,invert,pool=0.2", seed=1)},
    }
    message = (
        r"holds another victim \(standard, small_cnn, data digits" if finished else "belongs to a training with other"
    )
    with pytest.raises(RunError, match=message + r".*fix"):
        train(replace(job, **changes[change]))
    assert {path.name: path.read_bytes() for path in job.directory.iterdir()} == before


def test_two_trainings_in_one_folder_are_refused(make_job: MakeJob) -> None:
    job = make_job()
    with locked(job.directory), pytest.raises(RunError, match=r"victim is in use by another .*; fix: wait for it"):
        train(job)
    assert files(job) == []

    def second(done: int, total: int, words: str) -> None:
        with pytest.raises(RunError, match="in use by another"):
            train(replace(job, progress=None))

    train(replace(job, progress=second))
    assert files(job) == FINISHED
    with locked(job.directory):
        train(job)  # a finished one is only read


def test_a_file_in_the_way_is_named(make_job: MakeJob) -> None:
    job = make_job()
    job.directory.write_text("mine")
    with pytest.raises(RunError, match=r"victim is a file, not a folder; fix: choose another"):
        train(job)
    assert job.directory.read_text() == "mine"


def test_a_diverged_training_leaves_no_victim(make_job: MakeJob) -> None:
    job = make_job(fit=replace(FIT, lr=1e30, warmup=0.0))
    with pytest.raises(TrainingDiverged, match=r"fix: lower the learning rate .*, in another folder$"):
        train(job)
    assert not (job.directory / "model.json").exists()


def test_a_loss_far_beyond_that_of_a_guess_is_no_victim(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(fit=replace(FIT, lr=1e-6))
    monkeypatch.setattr("modelmoat.recipes.base._DIVERGED", 0.5)
    with pytest.raises(
        TrainingDiverged, match=r"the mean loss of epoch 1 is 2\.\d+ at .*; expected at most 1\.15; fix: "
    ):
        train(job)
    assert not (job.directory / "model.json").exists()
    monkeypatch.undo()
    train(job)


def test_nothing_is_learned_from_validation_or_test(make_job: MakeJob, splits: Splits) -> None:
    part = replace(splits, validation=splits.validation.take(torch.arange(5)), test=splits.test.take(torch.arange(5)))
    assert train(make_job("a")).weights_digest == train(make_job("b", splits=part)).weights_digest


def test_how_many_processes_train_is_no_part_of_the_fingerprint(make_job: MakeJob) -> None:
    recipe = create_recipe("standard")
    assert make_job(world=World(1, 2)).fingerprint(recipe) == make_job().fingerprint(recipe)


def test_each_process_draws_for_itself(make_job: MakeJob, splits: Splits) -> None:
    jobs = [make_job(), *(make_job(world=World(rank, 2)) for rank in range(2))]
    alone, first, second = (OodBatches(splits.train, job).take(8) for job in jobs)
    assert torch.equal(first, alone)
    assert not torch.equal(second, first)


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_is_built_by_its_spec(name: str) -> None:
    recipe = create_recipe(name)
    assert parse_recipe(recipe.spec) == recipe
    assert recipe.name == name
    assert recipe.paper
    assert recipe.summary().endswith(".")


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownReference, match="unknown recipe 'standart'; did you mean 'standard'"):
        parse_recipe("standart")
