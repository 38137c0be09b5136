"""Where 16-bit autocast may compute: networks alone."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """Switch off 16-bit autocast, in which only the networks may compute."""
    return torch.autocast(like.device.type, enabled=False)


def full(values: Tensor) -> Tensor:
    """Widen numbers of 16 bits to 32; others stay as they are."""
    return values.float() if values.element_size() < 4 else values
