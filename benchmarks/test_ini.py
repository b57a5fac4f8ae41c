"""InI's second-order terms: forward mode against differentiating twice, and the cost of serving, which is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from modelmoat.data import ImageSet, Splits, load_splits
from modelmoat.models import Classifier, create_network, load_model
from modelmoat.recipes import TrainingJob, create_recipe, train_victim
from modelmoat.recipes._pcgrad import ProjectedGradients, clipped_backward
from modelmoat.recipes.ini import Game, Ini
from modelmoat.training import Backward, FitSettings, sum_backward

LEAST = {("lenet", "sum"): 1.15, ("resnet20", "sum"): 1.3, ("lenet", "pcgrad"): 1.15, ("resnet20", "pcgrad"): 1.2}
LEAST_OVER_LEAN = 0.95
SERVED = 0.1  # how far from 1 the ratio of two equal graphs may be measured
SHAPES = {"lenet": (128, 1, 28, 28), "resnet20": (32, 3, 32, 32)}


class Step:
    """One step of InI, up to the gradients of the victim."""

    def __init__(self, arch: str, recipe: Ini, directory: Path, *, published: bool = False) -> None:
        count, *shape = SHAPES[arch]
        draws = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draws)
        images = ImageSet(pixels, torch.randint(10, (count,), generator=draws), tuple("abcdefghij"), "random")
        job = TrainingJob(
            splits=Splits(train=images, validation=images, pool=None, test=images),
            data="random",
            data_seed=0,
            arch=arch,
            fit=FitSettings(augment="none"),
            seed=0,
            directory=directory,
            ood=images,
        )
        self.network = network(arch).train()
        self._images = (pixels.float() / 255).contiguous(memory_format=torch.channels_last)
        self._labels = images.labels
        self._game = Game(recipe, self.network, job)
        self._game.student.network.to(memory_format=torch.channels_last)
        projected = (Everywhere if published else ProjectedGradients)(self.network, 0)
        summed = sum_backward if published else clipped_backward(self.network, 1e9)
        self._backward: Backward = projected if recipe.pcgrad else summed

    def __call__(self) -> Tensor:
        """The gradient, [P]."""
        self._game.start_epoch(0)
        self.network.zero_grad(set_to_none=True)
        self._backward(self._game(self.network, self._images, self._labels))
        return torch.cat([parameter.grad.flatten() for parameter in self.network.parameters()])


class Everywhere(ProjectedGradients):
    """Goes back to every weight on the way, the student's as well, and not to the victim's alone."""

    def _gradients(self, term: Tensor) -> Sequence[Tensor | None]:
        for parameter in self._parameters:
            parameter.grad = None
        term.backward(retain_graph=True)
        return [parameter.grad for parameter in self._parameters]


def network(arch: str) -> Classifier:
    _, channels, height, width = SHAPES[arch]
    made = create_network(arch, num_classes=10, input_shape=(channels, height, width), seed=0)
    return made.to(memory_format=torch.channels_last)


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that tensors made by a call held at once."""
    with profile(profile_memory=True) as measured:
        call()
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize(("arch", "backward"), sorted(LEAST))
def test_forward_mode_is_faster_and_smaller_than_differentiating_twice(
    arch: str,
    backward: str,
    tmp_path: Path,
    round_robin: Callable[..., dict[str, float]],
    report: Callable[[str, float, str], None],
) -> None:
    """Against the way of the public code, which differentiates in the student's weights too, and against a leaner one."""
    recipe = Ini(pcgrad=backward == "pcgrad")
    twice = replace(recipe, second_order="double_backward")
    forward = Step(arch, recipe, tmp_path)
    slow = {"published": Step(arch, twice, tmp_path, published=True), "lean": Step(arch, twice, tmp_path)}
    wanted = forward()
    for step in slow.values():
        assert float((wanted - step()).norm() / wanted.norm()) < 1e-5
    memory = peak_bytes(forward) / peak_bytes(slow["lean"])
    seconds = round_robin({"forward": forward, **slow}, rounds=15 if arch == "lenet" else 7, pick=min)
    ratios = {name: seconds[name] / seconds["forward"] for name in slow}
    for name, ratio in ratios.items():
        parts = f"{1000 * seconds['forward']:.0f} ms against {1000 * seconds[name]:.0f} ms"
        report(f"InI step, {arch}, {backward}: forward mode over double backward, {name}", ratio, parts)
    report(
        f"InI step, {arch}, {backward}: peak memory of forward mode over double backward", memory, "bytes of tensors"
    )
    assert memory < 1
    assert ratios["published"] >= LEAST[arch, backward]
    assert ratios["lean"] >= LEAST_OVER_LEAN


def test_serving_costs_what_it_costs_undefended(
    tmp_path: Path, in_turns: Callable[..., tuple[float, float]], report: Callable[[str, float, str], None]
) -> None:
    splits = load_splits("digits,size=28,subset=128")
    victims = []
    for name in ("standard", "ini"):
        job = TrainingJob(
            splits=splits,
            data="digits,size=28,subset=128",
            data_seed=0,
            arch="lenet",
            fit=FitSettings(epochs=1),
            seed=0,
            directory=tmp_path / name,
        )
        train_victim(create_recipe(name), job)
        victims.append(load_model(str(job.directory)))
    images = splits.test.images[:256].float() / 255
    plain, ini = in_turns(lambda: victims[0].predict(images), lambda: victims[1].predict(images), rounds=51)
    report("InI serving over undefended", ini / plain, f"{1000 * ini:.1f} ms against {1000 * plain:.1f} ms")
    assert abs(ini / plain - 1) < SERVED
