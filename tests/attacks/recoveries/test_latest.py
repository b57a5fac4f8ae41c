from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from modelmoat.attacks.recoveries.latest import Latest
from modelmoat.attacks.thief import Thief, Transfer
from modelmoat.core.errors import OptionError
from modelmoat.training import TensorImages, as_images

NOBODY = cast(Thief, None)


@pytest.mark.parametrize(("count", "share", "kept"), [(10, 0.5, 5), (7, 0.3, 2), (3, 0.01, 1), (4, 1.0, 4)])
def test_the_last_answers_stay_with_their_inputs(count: int, share: float, kept: int) -> None:
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)
    rows = torch.softmax(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    left = Latest(share=share).restore(Transfer(TensorImages(images), rows), NOBODY, "final")
    assert len(left.images) == len(left.targets) == kept
    assert torch.equal(left.targets, rows[-kept:])
    everything: Any = as_images(left.images).batch(torch.arange(kept))
    assert everything[:, 0, 0, 0].tolist() == list(range(count - kept, count))


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_shares_that_leave_nothing_or_more_than_all(share: float) -> None:
    with pytest.raises(OptionError, match=f"latest:share={share}"):
        Latest(share=share)
