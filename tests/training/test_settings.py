from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmoat.core.errors import OptionError
from modelmoat.training import PRECISIONS, FitSettings, precision, resolve_precision


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 40))
def test_batches_cut_the_order_and_leave_no_single_row(rows: int, size: int) -> None:
    how = FitSettings(batch_size=size)
    batches = how.batches(torch.arange(rows))
    assert torch.equal(torch.cat(batches), torch.arange(rows))
    assert len(batches) == how.steps_per_epoch(rows)
    lengths = [len(batch) for batch in batches]
    assert all(length == size for length in lengths[:-1])
    assert 1 <= lengths[-1] <= size + 1
    if rows > 1 and size > 1:
        assert lengths[-1] > 1


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 20), st.integers(0, 500))
def test_training_is_as_long_as_it_must_be_and_no_longer(rows: int, size: int, epochs: int, least: int) -> None:
    how = FitSettings(epochs=epochs, batch_size=size, min_steps=least)
    total, steps = how.total_epochs(rows), how.steps_per_epoch(rows)
    assert total >= epochs
    assert total * steps >= least
    assert total == epochs or (total - 1) * steps < least


@pytest.mark.parametrize(
    ("changes", "progress", "lr"),
    [
        ({"warmup": 0.2}, 0.0, 0.0),
        ({"warmup": 0.2}, 0.05, 0.5),
        ({"warmup": 0.2}, 0.2, 2.0),
        ({"warmup": 0.2}, 0.6, 1.0),
        ({"warmup": 0.2}, 1.0, 0.0),
        ({"warmup": 0.0}, 0.0, 2.0),
        ({"warmup": 0.0}, 1 / 3, 1.5),
        ({"warmup": 0.2, "schedule": "constant"}, 0.1, 1.0),
        ({"warmup": 0.2, "schedule": "constant"}, 0.99, 2.0),
    ],
)
def test_the_learning_rate_follows_the_schedule(changes: dict[str, Any], progress: float, lr: float) -> None:
    assert FitSettings(lr=2.0, **changes).lr_at(progress) == pytest.approx(lr, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("min_steps", -1),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1e-9),
        ("warmup", 1.0),
        ("precision", "float16"),
        ("optimizer", "adam"),
        ("schedule", "linear"),
        ("augment", "flip"),
    ],
)
def test_settings_outside_their_limits_are_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name}={value}: expected "):
        FitSettings(**{name: value})


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    found = {choice: resolve_precision(choice, torch.device("cpu")) for choice in PRECISIONS}
    assert found == {"auto": expected, "float32": "float32", "bfloat16": "bfloat16"}
    with pytest.raises(OptionError, match="precision=half: expected one of auto, float32, bfloat16"):
        resolve_precision("half", torch.device("cpu"))
