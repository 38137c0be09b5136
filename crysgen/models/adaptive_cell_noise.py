"""Noise levels of positions and lattice, and the steps of Langevin dynamics between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crysgen.models.adaptive_cell_config import AdaptiveCellConfig


def noise_sigmas(config: AdaptiveCellConfig, level: Tensor) -> Tensor:
    """Return σ of positions and of the lattice (..., 2) at levels 0, which is none, to L."""
    share = (level - 1) / (config.levels - 1)
    found = []
    for first, last in (config.position_sigmas, config.lattice_sigmas):
        sigma = first * (share * math.log(last / first)).exp()
        found.append(torch.where(level > 0, sigma, torch.zeros_like(sigma)))
    return torch.stack(found, -1)


def level_inputs(config: AdaptiveCellConfig, noises: Tensor) -> Tensor:
    """Scale noises (..., 2) to what the network is told: -1 to 1, and -1.5 where there is none."""
    found = []
    for k, (first, last) in enumerate((config.position_sigmas, config.lattice_sigmas)):
        share = (noises[..., k].clamp_min(first) / first).log() / math.log(last / first)
        none = torch.full_like(share, -1.5)
        found.append(torch.where(noises[..., k] > 0, 2 * share - 1, none))
    return torch.stack(found, -1)


def langevin_step(now: Tensor, following: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return η σ and the standard deviation of new noise, of a step from σ to the next one."""
    ratio = following / now
    size = torch.clamp_min(1 - ratio, step)
    return size * now, (ratio.square() - (1 - size).square()).clamp_min(0).sqrt() * now
