"""Types of atoms of a predicted composition."""

from __future__ import annotations

import torch
from torch import Tensor

from crysgen.diffusion.coupling import assigned, exchanged

_NEVER = 1e6
"""Cost of a pair that must not be."""


def whole_amounts(composition: Tensor, counts: Tensor) -> Tensor:
    """Round compositions to whole numbers of atoms by largest remainders.

    Args:
        composition: (B, Z) shares, whose sum is 1.
        counts: (B,) atoms.

    Returns:
        (B, Z) int64, whose sums are `counts`.
    """
    exact = composition.double() * counts[:, None]
    found = exact.floor()
    missing = (counts - found.sum(1).round().long()).clamp_min(0)
    rank = (found - exact).argsort(1).argsort(1)  # 0 for the largest remainder
    return (found + (rank < missing[:, None])).long()


def assigned_types(logits: Tensor, amounts: Tensor, mask: Tensor) -> Tensor:
    """Give the atoms of each crystal the types of its composition, where they are likeliest.

    Args:
        logits: (B, N, Z) of atomic numbers from 1 on.
        amounts: (B, Z) int64 atoms of each element.
        mask: (B, N) where atoms are.

    Returns:
        (B, N) atomic numbers with the largest product of chances; 0 on padding.
    """
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask).contiguous()
    types = torch.searchsorted(amounts.cumsum(1), places, right=True)
    types = types.clamp_max(amounts.shape[1] - 1)
    chances = logits.log_softmax(-1)
    cost = -chances.gather(2, types[:, None].expand(-1, mask.shape[1], -1))
    # Atoms and padding don't mix.
    cost = torch.where(mask[:, :, None] == mask[:, None], cost, torch.full_like(cost, _NEVER))
    order = assigned(cost) if cost.device.type == "cpu" else exchanged(cost)
    return (types.gather(1, order) + 1) * mask
