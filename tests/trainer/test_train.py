"""What training decides at the end of an epoch."""

from __future__ import annotations

import math

import pytest

from trainer.train import _better


@pytest.mark.parametrize(
    ("value", "best", "select", "better"),
    [
        (0.5, None, "top1", True),
        (0.5, 0.4, "top1", True),
        (0.4, 0.4, "top1", False),
        (0.5, 0.4, "loss", False),
        (0.3, 0.4, "loss", True),
        (math.nan, None, "loss", False),  # else no later loss would be lower than it
        (math.inf, None, "loss", False),
        (0.3, None, "loss", True),
    ],
)
def test_the_best_epoch_is_the_one_with_the_best_finite_value(
    value: float, best: float | None, select: str, better: bool
) -> None:
    assert _better(value, best, select) is better
