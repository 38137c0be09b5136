"""The average of a network's weights over a training run, for `torch.optim.swa_utils`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.swa_utils import get_ema_multi_avg_fn


def warm_average(decay: float) -> Callable[..., None]:
    """Make an exponential average that forgets the initial weights faster than `decay` at first.

    Args:
        decay: share that the average keeps at each update, once it has seen many.

    Returns:
        `multi_avg_fn` of an `AveragedModel` whose `n_averaged` begins at 1, so that the initial
        weights count: after n updates it keeps the smaller of `decay` and n / (n + 9).
    """

    def average(averaged: Any, current: Any, count: Any) -> None:
        now = min(decay, int(count) / (int(count) + 9))
        get_ema_multi_avg_fn(now)(averaged, current, count)

    return average
