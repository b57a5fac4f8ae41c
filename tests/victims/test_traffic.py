from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from modelmoat.attacks import Thief
from modelmoat.core.errors import BudgetExhausted, OptionError
from modelmoat.data import ImageSet
from modelmoat.victims import BatchMemory, BusyVictim, Victim


class Diary:
    """A defense that writes down who asked what."""

    spec = "diary"
    stateful = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor]] = []

    def respond(self, clean: Any) -> Tensor:
        self.seen += [(clean.account, image) for image in clean.inputs]
        rows: Tensor = clean.probabilities
        return rows


@pytest.fixture
def users() -> ImageSet:
    pixels = torch.full((20, 1, 2, 2), 255, dtype=torch.uint8)  # white: no attacker here sends that
    return ImageSet(pixels, torch.zeros(20, dtype=torch.int64), ("a", "b", "c"), "users")


def asked(count: int) -> Tensor:
    return torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.9


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_users_make_up_their_share_of_the_traffic_and_nobody_counts_them(
    share: float, predictor: Any, users: ImageSet
) -> None:
    diary = Diary()
    victim = Victim(predictor, defense=diary).with_ledger(300)
    busy = BusyVictim(victim, users, share=share, seed=0)
    inputs = asked(300)
    answers = [busy.query(part, "thief") for part in inputs.split(70)]
    assert torch.equal(torch.cat([part.values for part in answers]), Victim(predictor).query(inputs).values)
    benign = [account for account, image in diary.seen if bool((image == 1).all())]
    assert len(benign) == busy.benign == round(304 * share / (1 - share))  # before 38 turns of eight
    assert sorted(set(benign)) == sorted(f"user-{number}" for number in range(1, 11))
    assert victim.ledger.sent == 300
    assert victim.ledger.by_account == {"thief": 300}
    first = [account for account, _ in diary.seen[: len(diary.seen) // 2]]
    assert first.count("thief") == pytest.approx(len(first) * (1 - share), rel=0.2)  # mixed, not one after the other


def test_no_user_is_served_for_a_query_past_the_budget(predictor: Any, users: ImageSet) -> None:
    diary = Diary()
    busy = BusyVictim(Victim(predictor, defense=diary).with_ledger(10), users, share=0.5, seed=0)
    with pytest.raises(BudgetExhausted):
        busy.query(asked(11))
    assert diary.seen == []


def test_a_share_of_all_traffic_leaves_no_room(predictor: Any, users: ImageSet) -> None:
    with pytest.raises(OptionError, match="benign_share=1"):
        BusyVictim(Victim(predictor), users, share=1.0, seed=0)


def test_accounts_take_turns_and_answers_keep_their_order(predictor: Any, users: ImageSet) -> None:
    diary = Diary()
    victim = Victim(predictor, defense=diary).with_ledger(23)
    thief = Thief(victim=victim, pool=users, clone_arch="small_cnn", accounts=4)
    inputs = asked(23)
    answers = torch.cat([thief.query(part).values for part in inputs.split(10)])
    assert torch.equal(answers, Victim(predictor).query(inputs).values)
    assert victim.ledger.by_account == {"attacker-1": 8, "attacker-2": 8, "attacker-3": 7}
    assert [account for account, _ in diary.seen] == [f"attacker-{1 + at // 8}" for at in range(23)]
    assert torch.equal(torch.stack([image for _, image in diary.seen]), inputs)
    with pytest.raises(BudgetExhausted):
        thief.query(inputs[:1])


@pytest.mark.parametrize("accounts", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_defense_sees_the_same_however_the_queries_are_cut(
    accounts: int, share: float, predictor: Any, users: ImageSet
) -> None:
    inputs, diaries = asked(100), []
    for size in (1, 13, 64, 100):
        diary = Diary()
        busy = BusyVictim(Victim(predictor, defense=diary).with_ledger(100), users, share=share, seed=0)
        thief = Thief(victim=busy, pool=users, clone_arch="small_cnn", accounts=accounts)
        for part in inputs.split(size):
            thief.query(part)
        diaries.append(diary.seen)
    for seen in diaries[1:]:
        assert [account for account, _ in seen] == [account for account, _ in diaries[0]]
        assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(seen, diaries[0], strict=True))


def test_a_batch_is_computed_once_and_counted_every_time(predictor: Any) -> None:
    memory = BatchMemory()
    inputs = asked(8)
    first, second = (Victim(predictor, memory=memory) for _ in range(2))
    assert torch.equal(first.query(inputs).values, second.query(inputs).values)
    assert predictor.asked == 8
    assert first.ledger.sent == second.ledger.sent == 8
    second.query(inputs[:5])  # another batch, whose rows may differ in their last bits
    assert predictor.asked == 13


def test_a_full_memory_keeps_nothing_more(predictor: Any) -> None:
    victim = Victim(predictor, memory=BatchMemory(memory_mb=0))
    for _ in range(2):
        victim.query(asked(3))
    assert predictor.asked == 6


def test_remembered_answers_still_pass_the_defense(predictor: Any, fixed: Callable) -> None:
    memory = BatchMemory()
    plain = Victim(predictor, memory=memory).query(asked(4)).values
    defended = Victim(predictor, memory=memory, defense=fixed(lambda rows: rows.roll(1, dims=1)))
    assert torch.equal(defended.query(asked(4)).values, plain.roll(1, dims=1))
