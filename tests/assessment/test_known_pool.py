"""A pool that the victim or a defense was taught on is told, whatever it is called."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from modelmoat.assessment import ProtectSpec, SubjectSpec, protect, set_scene
from modelmoat.data import ImageSet, load
from modelmoat.defenses import create_defense, parse_defense

PATCHES = "photo-patches,grey,n=60,size=8,test=0"
EDM = "edm:members=2,epochs=1,hash_epochs=1,ood_images=60"


def save(path: Path, images: ImageSet) -> str:
    np.savez(path, x=images.images[:, 0].numpy(), y=images.labels.numpy())
    return f"npz:{path},test=0"


@contextmanager
def told(*patterns: str) -> Iterator[None]:
    """Exactly these warnings, in this order."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    words = [str(warning.message) for warning in found]
    assert len(words) == len(patterns), words
    for pattern, text in zip(patterns, words, strict=True):
        assert re.search(pattern, text), text


@pytest.fixture
def hardened(tiny_victim: Path, tmp_path: Path) -> Callable[[str], str]:
    """The tiny victim, whose card says which other images it was trained with."""

    def write(ood: str) -> str:
        folder = shutil.copytree(tiny_victim, tmp_path / "hardened")
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(card | {"ood": ood, "recipe": "ini"}))
        return str(folder)

    return write


def test_the_same_images_by_another_reference_are_counted(
    hardened: Callable[[str], str], spec: Callable, tmp_path: Path
) -> None:
    patches, others = load(PATCHES), load("digits,pool=0.4,split=pool,subset=30")
    known = save(tmp_path / "known.npz", patches)
    mixed = torch.cat([others.images, patches.images[:7]])
    pool = save(tmp_path / "pool.npz", ImageSet(mixed, torch.zeros(37, dtype=torch.int64), ("any",), "mixed"))
    victim = hardened(known)
    with told(
        r"pool 'npz:.*pool.npz.*' shares 7 of its 37 images with 'npz:.*known.npz.*', the out-of-distribution images that "
        "ini was trained with: the result flatters the victim; fix: attack with a pool from elsewhere"
    ):
        set_scene(spec(victim=victim, pool=pool))
    with told():
        set_scene(spec(victim=victim, pool=save(tmp_path / "others.npz", others)))


def test_a_named_set_and_its_folder_are_one_source(
    hardened: Callable[[str], str], spec: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the pool has none of the very images that the victim was trained with."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "data" / "pets" / name).mkdir(parents=True)
        for number in range(30):
            pixels = np.random.default_rng(number + 100 * (name == "dog")).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "pets" / name / f"{number}.png")
    monkeypatch.setenv("MODELMOAT_DATA", str(tmp_path / "data"))
    victim = hardened("pets,size=8,split=train")
    with told("comes from 'pets,size=8,split=train', the out-of-distribution images that ini was trained with"):
        set_scene(spec(victim=victim, pool=f"folder:{tmp_path / 'data' / 'pets'},split=test", budgets=(5,)))


@pytest.mark.parametrize(
    ("ood", "reason"),
    [
        ("npz:gone.npz,size=8", "gone.npz is not a file"),
        ("photo-petals,size=8", "photo-petals"),
        ("mnist,size=8", r"they are on the hub \(hub:ylecun/mnist\) and would be downloaded"),
    ],
)
def test_what_cannot_be_compared_is_said(
    ood: str, reason: str, hardened: Callable[[str], str], spec: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELMOAT_DATA", raising=False)
    victim = hardened(ood)
    with told(rf"was not compared with '{ood}', .* ini was trained with: .*{reason}.*flatters the victim"):
        set_scene(spec(victim=victim))


def test_a_defense_prepared_with_the_pool_is_told(spec: Callable, tmp_path: Path) -> None:
    """By name, and by pixels; once for all defenses that share a set."""
    defenses = tuple(map(parse_defense, ("none", EDM, f"{EDM}+rounding:decimals=1", f"{EDM},ood=noise")))
    pattern = r"'photo-patches,.*that edm:.* and edm:.*\+rounding:decimals=1 are prepared with: the result flatters the defense"
    with told(rf"comes from {pattern}"):
        set_scene(spec(defenses=defenses, pool=PATCHES))
    with told(rf"shares 60 of its 60 images with {pattern}"):
        set_scene(spec(defenses=defenses, pool=save(tmp_path / "same.npz", load(PATCHES))))
    with told():
        set_scene(spec(defenses=defenses))


def test_the_defense_of_a_protected_victim_is_looked_at(spec: Callable, tiny_victim: Path, tmp_path: Path) -> None:
    subject = SubjectSpec(victim=str(tiny_victim))
    protect(ProtectSpec(subject=subject, defense=parse_defense(EDM)), tmp_path / "protected")
    with told("comes from 'photo-patches.* that edm:.* is prepared with: the result flatters the defense"):
        set_scene(spec(victim=str(tmp_path / "protected"), pool=PATCHES))


def test_other_defenses_read_no_foreign_images() -> None:
    for name in ("none", "misinformation", "mad", "queen"):
        assert create_defense(name).foreign((1, 8, 8)) == ()
