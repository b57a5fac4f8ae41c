"""Pools of images that the victim or a defense was taught to answer badly: what is measured with them flatters."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from modelmoat.assessment.subject import Subject
from modelmoat.core.errors import UsageError
from modelmoat.data import NOISE, ImageSet, load, overlap, source_of
from modelmoat.defenses import Defense

_FIX = "fix: attack with a pool from elsewhere"


@dataclass(frozen=True)
class _Known:
    """Out-of-distribution images, the seed of their draw, their hash if known, and what was taught on them."""

    reference: str
    seed: int
    digest: str | None
    taught: str
    flattered: str


def warn_of_known_pool(subject: Subject, defenses: Iterable[Defense], pool: ImageSet) -> None:
    """Say so where the attacker sends what the victim or a defense was taught to answer badly, by any reference.

    A comparison of pixels that cannot be made is said as well; what would have to be downloaded for it is left alone.
    """
    for known in [*_of_recipe(subject), *_of_defenses(subject, defenses, pool)]:
        named = f"'{known.reference}', the out-of-distribution images that {known.taught}"
        try:
            shared = _shared(known, pool)
        except UsageError as error:
            warnings.warn(
                f"pool '{pool.reference}' was not compared with {named}: {error}; if they are the same images, the result "
                f"flatters the {known.flattered}",
                stacklevel=3,
            )
            continue
        if shared:
            warnings.warn(
                f"pool '{pool.reference}' {shared} {named}: the result flatters the {known.flattered}; {_FIX}",
                stacklevel=3,
            )


def _of_recipe(subject: Subject) -> list[_Known]:
    origin = subject.origin
    if origin is None or origin.ood is None:
        return []
    digest = origin.data_digests.get("ood")
    return [_Known(origin.ood, origin.data_seed, digest, f"{origin.recipe} was trained with", "victim")]


def _of_defenses(subject: Subject, defenses: Iterable[Defense], pool: ImageSet) -> list[_Known]:
    """Each set once, whatever the number of defenses that use it."""
    users: dict[str, list[str]] = {}
    for defense in defenses:
        for reference in defense.foreign(pool.shape):
            users.setdefault(reference, []).append(defense.spec)
    return [
        _Known(
            reference,
            subject.data_seed,
            None,
            f"{' and '.join(specs)} {'is' if len(specs) == 1 else 'are'} prepared with",
            "defense",
        )
        for reference, specs in users.items()
    ]


def _shared(known: _Known, pool: ImageSet) -> str:
    """What the pool has to do with known images, as a verb; empty for nothing.

    References and hashes of whole sets are compared first, which costs nothing; pixels last.
    """
    if known.reference.partition(",")[0] == pool.reference.partition(",")[0] or pool.digest == known.digest:
        return "comes from"
    if known.reference == NOISE:  # no reference gives it, and what was drawn of it has its hash above
        return ""
    source, own = source_of(known.reference), source_of(pool.reference)
    if source == own:
        return "comes from"
    if source.startswith("hub:"):
        if own.startswith("hub:"):  # two sets of the hub are told apart by their names
            return ""
        raise UsageError(f"they are on the hub ({source}) and would be downloaded")
    count = int(overlap(pool, load(known.reference, seed=known.seed)).sum())
    return f"shares {count:,} of its {len(pool):,} images with" if count else ""
