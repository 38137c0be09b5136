"""Atoms and diffusion steps as vectors (GemsDiff, Eq. 8)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

MAX_ATOMIC_NUMBER = 118
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
_STEPS = 100.0
"""The step divided by T is spread over this range before its sines, as in a run of T = 100."""


def periods_and_groups() -> tuple[Tensor, Tensor]:
    """Tabulate rows (119,) 1 to 7 and groups (119,) 1 to 18, 19 for the f block, 0 for padding.

    Lanthanides and actinides are a group of their own: they resemble each other more than
    anything above them.
    """
    periods = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.long)
    groups = torch.zeros_like(periods)
    for period, (before, last) in enumerate(pairwise(_NOBLE), start=1):
        width = last - before
        for place in range(1, width + 1):
            z = before + place
            periods[z] = period
            if width == 2:
                groups[z] = 1 if place == 1 else 18
            elif place <= 2:
                groups[z] = place
            elif width == 32 and place <= 16:
                groups[z] = 19
            else:
                groups[z] = place + 18 - width
    return periods, groups


def step_features(step: Tensor, channels: int) -> Tensor:
    """Compute pairs of sines and cosines (B, C) of the step (Eq. 8 with n = 10,000)."""
    even = torch.arange(0, channels, 2, device=step.device, dtype=step.dtype)
    angles = _STEPS * step[:, None] * torch.exp(-math.log(10_000.0) * even / channels)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :channels]


class AtomEmbedding(nn.Module):
    """Element and step of each atom as one vector.

    The vector of an element is the sum of its own, its row's and its group's, so that rare
    elements begin where their neighbours in the periodic table are.

    Args:
        channels: width.
        step: whether the step is added (the ablation "w/o temporal embedding" of Table 4).
    """

    periods: Tensor
    groups: Tensor

    def __init__(self, channels: int, step: bool = True) -> None:
        super().__init__()
        periods, groups = periods_and_groups()
        self.register_buffer("periods", periods, persistent=False)
        self.register_buffer("groups", groups, persistent=False)
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.period = nn.Embedding(8, channels)
        self.group = nn.Embedding(20, channels)
        nn.init.normal_(self.element.weight, std=0.3)
        self.step = nn.Linear(channels, channels) if step else None

    def forward(self, atomic_numbers: Tensor, step: Tensor) -> Tensor:
        """Embed atomic numbers (B, N) and steps (B,) divided by T as (B, N, C)."""
        atoms = (
            self.element(atomic_numbers)
            + self.period(self.periods[atomic_numbers])
            + self.group(self.groups[atomic_numbers])
        )
        if self.step is None:
            return atoms
        features = step_features(step, atoms.shape[-1])
        return atoms + self.step(features)[:, None]
