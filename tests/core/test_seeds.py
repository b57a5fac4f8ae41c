from __future__ import annotations

import itertools

import torch

from modelmoat.core.seeds import derive, generator


def test_seeds_never_change_between_versions() -> None:
    assert derive(0, "split") == 1947725093899964015
    assert derive(7, "order", 3) == 2396369170524145093
    assert generator(7, "order", 3).initial_seed() == derive(7, "order", 3)


def test_names_and_seeds_give_different_seeds_that_torch_accepts() -> None:
    uses = itertools.product(range(10), ("order", "augment", "weights"), range(10))
    seeds = [derive(*use) for use in uses]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(12, 3) != derive(1, 23)


def test_a_draw_does_not_depend_on_other_draws() -> None:
    alone = torch.rand(5, generator=generator(3, "b"))
    torch.manual_seed(99)
    torch.rand(100)
    torch.rand(100, generator=generator(3, "a"))
    assert torch.equal(torch.rand(5, generator=generator(3, "b")), alone)
    assert not torch.equal(torch.rand(5, generator=generator(3, "a")), alone)
