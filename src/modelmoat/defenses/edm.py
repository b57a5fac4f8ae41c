"""EDM: an ensemble whose members agree on real inputs and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelmoat.core.errors import DataError, require
from modelmoat.core.seeds import derive, generator
from modelmoat.data import ImageSet, check_foreign, foreign_reference, load_foreign, overlap, refuse_overlap
from modelmoat.data.foreign import NOISE, PATCHES
from modelmoat.defenses._surrogate import blank_network, network_facts, random_network
from modelmoat.defenses.base import DEFENSES, Preparation
from modelmoat.defenses.prepared import PreparableDefense, PreparedModule
from modelmoat.models import Classifier, Predictor, create_network
from modelmoat.training import FitSettings, as_float, fit, pixel_statistics

_TURNS = 4


@DEFENSES.register("edm")
@dataclass(frozen=True, kw_only=True, repr=False)
class Edm(PreparableDefense):
    """Answers with one of several networks, picked by a hash of the input; off the training distribution they disagree.

    The members are trained together on the victim's training images (x, t) and out-of-distribution images x':

        sum_i CE(f_i(x), t) + lambda_d log sum_{a<b} exp cos(p_a(x'), p_b(x')),    p_i = softmax f_i.

    A helper network of M classes, trained on images of its own, gives every input a label c and its probability q, and

        index = (m c + floor((M q - 1) m / (M - 1))) mod ``members``

    with m = ``hash_bins``, the floor clamped to [0, m - 1], says which member answers: always the same for the same
    input, but not in any smooth way. How evenly members are used follows from the helper (`PreparedEdm.pick` tells);
    where it is unsure of everything and N shares a factor with m, some never answer.

    The victim's own answer is not served, so its top-1 may change; the cost is one pass of a member and one of the helper
    per query, and all members in memory.

    Parameters:
        members: N, how many networks.
        lambda_d: weight of diversity.
        epochs: how long the members are trained.
        lr: highest learning rate of members and helper; the sum of losses diverges earlier than one network's.
        arch: of the members; the victim's where it is None.
        ood: data reference without options for x', resized to the victim's input; or ``noise``, smoothed random pixels.
        ood_images: how many of them at most.
        hash_data: data reference without options for the helper.
        hash_task: what the helper learns: the ``labels`` of these images, as published, or labels and ``rotations`` by
            quarter turns together, which makes four classes of each (the embedded photo patches have but two).
        hash_bins: m, into how many the probability is cut.
        hash_epochs: how long the helper is trained.
        hash_arch: its architecture.

    The loss is recalled from the paper, the hash read in third-party code; sizes of training are this package's choice.
    An attacker who sends images like ``ood`` meets the defense where it was trained: choose another set for a fair test.

    Raises:
        OptionError: parameters outside their limits, or a hash that cannot reach every member.
        DataError: training images that do not fit the victim, or are among ``ood``.
    """

    members: int = 5
    lambda_d: float = 1.0
    epochs: int = 20
    lr: float = 0.05
    arch: str | None = None
    ood: str = PATCHES
    ood_images: int = 5000
    hash_data: str = PATCHES
    hash_task: Literal["rotations", "labels"] = "rotations"
    hash_bins: int = 2
    hash_epochs: int = 5
    hash_arch: str = "small_cnn"

    paper: ClassVar[str] = "Kariyappa et al., Protecting DNNs from Theft using an Ensemble of Diverse Models, ICLR 2021"
    needs: ClassVar[frozenset[str]] = frozenset({"inputs", "training"})
    exportable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("epochs", "hash_bins", "hash_epochs", "ood_images"):
            require(getattr(self, name) >= 1, f"edm:{name}={getattr(self, name)}: expected at least 1")
        require(self.lr > 0, f"edm:lr={self.lr}: expected a positive number, such as 0.05")
        require(self.members >= 2, f"edm:members={self.members}: expected at least 2, such as 5")
        require(self.lambda_d >= 0, f"edm:lambda_d={self.lambda_d}: expected 0 or more, such as 1")
        for name in ("ood", "hash_data"):
            check_foreign(f"edm:{name}", getattr(self, name))
        require(self.hash_data != NOISE, "edm:hash_data=noise: noise has no labels to learn; fix: name labeled images")

    def foreign(self, shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Images that members are taught to disagree on."""
        return (foreign_reference(self.ood, shape, most=self.ood_images, owner="edm"),)

    def prepare(self, preparation: Preparation) -> PreparedEdm:
        """Train the helper and the members; raises `TrainingDiverged` where a loss is no longer a number."""
        predictor, train = preparation.predictor, preparation.train
        if train.num_classes != predictor.num_classes:
            raise DataError(
                f"defense '{self.spec}': the training images have {train.num_classes} classes and the victim answers with "
                f"{predictor.num_classes}; fix: prepare it with the images that the victim was trained on"
            )
        foreign = load_foreign(self.ood, train.shape, most=self.ood_images, seed=preparation.seed, owner="edm")
        if preparation.simulated:
            foreign = foreign.take((~overlap(foreign, train)).nonzero()[:, 0])
            if not len(foreign):
                raise DataError(f"edm:ood={self.ood}: all its images are among the attacker's own; fix: another pool")
        refuse_overlap(f"edm:ood={self.ood}", foreign, [train])
        helper = self._train_helper(train.shape, preparation.seed, preparation.device)
        members = self._train_members(preparation, foreign)
        return PreparedEdm(self, predictor, members, helper).ready(preparation.device)

    def skeleton(self, predictor: Predictor, facts: Mapping[str, Any]) -> PreparedEdm:
        """Members and helper with any weights."""
        members = [blank_network(predictor, facts) for _ in range(self.members)]
        helper = create_network(
            self.hash_arch, num_classes=facts["hash_classes"], input_shape=members[0].input_shape, seed=0
        )
        return PreparedEdm(self, predictor, members, helper)

    def _train_members(self, preparation: Preparation, foreign: ImageSet) -> list[Classifier]:
        train, seed, device = preparation.train, preparation.seed, preparation.device
        members = [random_network(preparation, "edm", arch=self.arch, seed=number) for number in range(self.members)]
        ood = foreign.images.to(device)
        draws = generator(seed, "edm", "ood")

        def objective(together: nn.Module, batch: Tensor, targets: Tensor) -> Tensor:
            others = ood[torch.randint(len(ood), (len(batch),), generator=draws).to(device)]
            logits = together(torch.cat([batch, as_float(others)])).float()  # one pass: batch norm sees both as served
            known, unknown = logits.split(len(batch), dim=1)
            fitted = F.cross_entropy(known.flatten(0, 1), targets.repeat(self.members)) * self.members
            return fitted + self.lambda_d * diversity_loss(unknown.softmax(dim=2))

        settings = FitSettings(epochs=self.epochs, lr=self.lr)
        fit(
            _Together(members),
            train,
            train.labels,
            settings,
            seed=derive(seed, "edm", "fit"),
            device=device,
            objective=objective,
        )
        return members

    def _train_helper(self, shape: tuple[int, int, int], seed: int, device: str) -> Classifier:
        data = load_foreign(self.hash_data, shape, most=self.ood_images, seed=seed, owner="edm")
        classes = data.num_classes * (_TURNS if self.hash_task == "rotations" else 1)
        require(
            classes * self.hash_bins >= self.members,
            f"edm: a helper of {classes} classes and hash_bins={self.hash_bins} tells {classes * self.hash_bins} kinds of inputs "
            f"apart, too few for members={self.members}; fix: hash_task=rotations, more bins, or other hash_data",
        )
        images, labels = data.images, data.labels
        if self.hash_task == "rotations":
            images, labels = turned(images, labels, generator(seed, "edm", "turns"))
        mean, std = pixel_statistics(data)
        helper = create_network(
            self.hash_arch,
            num_classes=classes,
            input_shape=shape,
            seed=derive(seed, "edm", "helper"),
            mean=mean,
            std=std,
        )
        settings = FitSettings(epochs=self.hash_epochs, lr=self.lr, augment="none")
        fit(helper, images, labels, settings, seed=derive(seed, "edm", "helper"), device=device)
        return helper


class PreparedEdm(PreparedModule):
    """Trained members and the helper that picks one of them."""

    def __init__(self, method: Edm, predictor: Predictor, members: Sequence[Classifier], helper: Classifier) -> None:
        super().__init__(method, predictor)
        self.bins = method.hash_bins
        self._built = {**network_facts(members[0]), "hash_classes": helper.num_classes}
        self.members = nn.ModuleList(members)
        self.helper = helper

    def forward(self, probabilities: Tensor, inputs: Tensor) -> Tensor:
        """Answers [N, K] of the member that each input belongs to."""
        picked = self.pick(inputs)
        rows = torch.empty_like(probabilities)
        for number, member in enumerate(self.members):
            where = (picked == number).nonzero()[:, 0]
            if len(where):
                rows[where] = member(inputs[where]).float().softmax(dim=1)
        return rows

    def pick(self, inputs: Tensor) -> Tensor:
        """Number of the member that answers, int64 [N]."""
        return hash_index(self.helper(inputs).float().softmax(dim=1), self.bins, len(self.members))

    @torch.no_grad()
    def coherence(self, inputs: Tensor) -> Tensor:
        """Largest cosine between the answers of two members to images [N, C, H, W] in [0, 1], in [0, 1], [N].

        Low values on images unlike the training images are what diversity means.
        """
        answers = torch.stack([member(inputs) for member in self.members]).softmax(dim=2)
        return _cosines(answers).amax(dim=0)

    def facts(self) -> dict[str, Any]:
        """What the networks are built again from."""
        return dict(self._built)


def hash_index(answers: Tensor, bins: int, members: int) -> Tensor:
    """Which member answers, from the helper's rows of probabilities [N, M]; int64 [N].

    >>> hash_index(torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.0, 1.0]]), bins=2, members=5)
    tensor([0, 3, 3])
    """
    classes = answers.shape[1]
    top, label = answers.max(dim=1)
    level = ((classes * top - 1) * bins / (classes - 1)).floor().long().clamp(0, bins - 1)
    return (bins * label + level) % members


def diversity_loss(answers: Tensor) -> Tensor:
    """How alike members answer: log sum_{a<b} exp cos(p_a, p_b), averaged over images.

    Rows of probabilities [members, N, K] -> a scalar.

    >>> agreeing = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    >>> diversity_loss(agreeing), diversity_loss(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    (tensor(1.), tensor(0.))
    """
    return _cosines(answers).logsumexp(dim=0).mean()


def turned(images: Tensor, labels: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images, each by a random number of quarter turns, and labels that tell both class and turns."""
    turns = torch.randint(_TURNS, (len(images),), generator=draws)
    rotated = torch.stack([image.rot90(int(turn), (1, 2)) for image, turn in zip(images, turns, strict=True)])
    return rotated, labels * _TURNS + turns


class _Together(nn.Module):
    """Members as one network: [N, C, H, W] -> logits [members, N, K]."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members])


def _cosines(answers: Tensor) -> Tensor:
    """Cosine of each pair of members, [pairs, N], for rows of probabilities [members, N, K]."""
    first, second = (list(side) for side in zip(*combinations(range(len(answers)), 2), strict=True))
    return F.cosine_similarity(answers[first], answers[second], dim=2)
