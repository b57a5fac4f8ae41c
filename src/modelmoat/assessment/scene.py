"""Victim, test images and pool, loaded and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modelmoat.assessment.known_pool import warn_of_known_pool
from modelmoat.assessment.spec import AssessmentSpec
from modelmoat.assessment.subject import Subject, load_subject, warn_of_defense_inside
from modelmoat.assessment.suites import misfit
from modelmoat.assessment.utility import clean_rows
from modelmoat.attacks import Attack
from modelmoat.core.errors import DataError, OptionError
from modelmoat.core.seeds import generator
from modelmoat.core.shapes import by, reshape_options
from modelmoat.data import ImageSet, Splits, load, overlap
from modelmoat.data.splits import share_of
from modelmoat.models import Predictor, Start, arch_names, create_network, load_start
from modelmoat.training import pixel_statistics
from modelmoat.victims import CleanRows


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What every cell of an assessment shares.

    Attributes:
        subject: the victim and its data.
        pool: inputs that the attacker may send.
        clone_arch: architecture of the clones.
        start: weights that clones start from; None for random ones.
        clean: undefended answers to the test images.
        attackers: who attacks: those asked for, and those of the suite that fit.
        left_out: why each other attacker of the suite does not fit, by its spec.
    """

    subject: Subject
    pool: ImageSet
    clone_arch: str
    start: Start | None
    clean: CleanRows
    attackers: tuple[Attack, ...]
    left_out: dict[str, str]

    def pool_of(self, attack: Attack) -> ImageSet:
        """Inputs that an attacker may send: the pool, or images of the victim's own kind where it holds some."""
        return _pool_of(attack, self.pool, self.subject.splits, self.subject.data_seed)

    @property
    def predictor(self) -> Predictor:
        """The undefended model."""
        return self.subject.predictor

    @property
    def test(self) -> ImageSet:
        """Images that nobody trained on."""
        return self.subject.splits.test


def set_scene(spec: AssessmentSpec) -> Scene:
    """Load all that an assessment needs and refuse what does not fit.

    Raises:
        ModelError: the model and the data differ in shape or classes, or the model gives bad outputs.
        DataError: the pool has another shape, or shares images with the victim's data.
        OptionError: the pool does not do for an attack; no architecture for clones; more classes asked than there are.
        UnknownReference: there are no such weights for clones to start from.
        RunError: the data are not those that the victim was trained on.
    """
    subject = load_subject(spec.subject())
    predictor, splits = subject.predictor, subject.splits
    check_output(spec, predictor.reference, predictor.num_classes)
    pool = usable_pool(spec, load(spec.pool, seed=subject.data_seed), splits)
    for attack in spec.attackers:
        check_attack(attack, spec, pool, splits, subject.data_seed)
    warn_of_defense_inside(subject)
    warn_of_known_pool(subject, subject.lineup(spec.defenses), pool)
    start = find_start(spec, _own_arch(predictor), predictor.num_classes, pool)
    fitting, left_out = fit_suite(spec, pool, splits, subject.data_seed)
    return Scene(
        subject=subject,
        pool=pool,
        clone_arch=start.network.arch if start else _clone_arch(spec, predictor, pool),
        start=start,
        clean=clean_rows(predictor, splits.test),
        attackers=tuple(dict.fromkeys([*spec.attackers, *fitting])),
        left_out=left_out,
    )


def fit_suite(spec: AssessmentSpec, pool: ImageSet, splits: Splits, seed: int) -> tuple[list[Attack], dict[str, str]]:
    """The suite's attackers that fit victim, pool and budgets, and why each other one does not."""
    fitting, left_out = [], {}
    for attack in spec.found_suite.attackers() if spec.found_suite else ():
        try:
            own = _pool_of(attack, pool, splits, seed)
            reason = misfit(attack, own, spec.budgets, splits.test.num_classes, spec.output)
        except OptionError as error:
            reason = str(error)
        if reason is None:
            fitting.append(attack)
        else:
            left_out[attack.spec] = reason
    return fitting, left_out


def check_output(spec: AssessmentSpec, victim: str, num_classes: int) -> None:
    """Raise `OptionError` where more classes are asked for than the victim has."""
    asked = spec.output.k
    if asked is not None and asked > num_classes:
        raise OptionError(
            f"output {spec.output}: victim '{victim}' has {num_classes} classes; fix: top{num_classes} or fewer"
        )


def usable_pool(spec: AssessmentSpec, pool: ImageSet, splits: Splits) -> ImageSet:
    """The pool, without images of the victim where that is asked for; raises `DataError` where it does not fit the victim."""
    if pool.shape != splits.test.shape:
        raise DataError(
            f"pool '{spec.pool}' has images of {by(pool.shape)}, the victim takes {by(splits.test.shape)} "
            f"(channels x height x width); fix: --pool {spec.pool},{reshape_options(pool.shape, splits.test.shape)}"
        )
    return _without_overlap(spec, pool, splits)


def check_attack(attack: Attack, spec: AssessmentSpec, pool: ImageSet, splits: Splits, seed: int) -> None:
    """Raise `OptionError` where an attacker cannot do with its inputs and the victim's classes; asks nothing."""
    own = _pool_of(attack, pool, splits, seed)
    attack.check(spec.budgets, len(own))
    attack.check_fit(own, splits.test.num_classes)


def _pool_of(attack: Attack, pool: ImageSet, splits: Splits, seed: int) -> ImageSet:
    if not attack.own_kind:
        return pool
    count, available = share_of(len(splits.train), attack.own_kind), len(splits.validation)
    if count > available:
        raise OptionError(
            f"'{attack.spec}': {attack.own_kind:g} of the {len(splits.train):,} training images are {count:,}, and the victim "
            f"has {available:,} validation images; fix: a smaller share, or train on REF,pool=0.2 and attack with --pool "
            "REF,pool=0.2,split=pool"
        )
    rows = torch.randperm(available, generator=generator(seed, "data at hand"))[:count]
    return splits.validation.take(rows)


def _without_overlap(spec: AssessmentSpec, pool: ImageSet, splits: Splits) -> ImageSet:
    owned = {"test": splits.test, "validation": splits.validation, "train": splits.train}
    shared = {name: overlap(pool, images) for name, images in owned.items()}
    if spec.drop_overlap:
        keep = ~torch.stack(list(shared.values())).any(dim=0)
        if not bool(keep.any()):
            raise DataError(f"pool '{spec.pool}': every image is in the victim's data; fix: choose another pool")
        return pool.take(keep.nonzero()[:, 0])
    counts = [f"{int(rows.sum()):,} with its {name} images" for name, rows in shared.items() if bool(rows.any())]
    if counts:
        raise DataError(
            f"pool '{spec.pool}' shares images with the victim: of {len(pool):,}, {', '.join(counts)}; "
            "expected none, since they would flatter the attack; fix: --drop-overlap leaves them out; for an attacker "
            "with data like the victim's, train on REF,pool=0.2 and attack with --pool REF,pool=0.2,split=pool"
        )
    return pool


def find_start(spec: AssessmentSpec, own_arch: str | None, num_classes: int, pool: ImageSet) -> Start | None:
    """Weights that clones start from, if any; raises as `load_start` does."""
    if spec.clone_init is None:
        return None
    mean, std = pixel_statistics(pool)
    return load_start(
        spec.clone_init,
        arch=spec.clone_arch,
        default_arch=own_arch,
        num_classes=num_classes,
        input_shape=pool.shape,
        mean=mean,
        std=std,
    )


def _own_arch(predictor: Predictor) -> str | None:
    return predictor.arch if predictor.arch in arch_names() else None


def _clone_arch(spec: AssessmentSpec, predictor: Predictor, pool: ImageSet) -> str:
    arch = spec.clone_arch if spec.clone_arch is not None else _own_arch(predictor)
    if arch is None:
        raise OptionError(
            f"victim '{predictor.reference}' has no registered architecture for its clones; fix: add --clone-arch, one of "
            f"{', '.join(arch_names())}"
        )
    create_network(arch, num_classes=predictor.num_classes, input_shape=pool.shape, seed=0)  # refuses images too small
    return arch
