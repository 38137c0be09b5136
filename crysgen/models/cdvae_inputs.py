"""Inputs and layers that encoder and decoder of CDVAE share."""

from __future__ import annotations

from torch import Tensor, nn

from crysgen.diffusion.lattice import normalize_lengths
from crysgen.networks.cspnet import gram_entries

_EDGE = 2.5
"""Å: edge of the cube an atom takes, in which CSPNet sees cells; about that of the data."""


def invariant_cells(lattices: Tensor, mask: Tensor) -> Tensor:
    """Describe cells by invariant numbers (B, 6) of about 1."""
    return gram_entries(normalize_lengths(lattices, mask.sum(1).clamp_min(1)) / _EDGE)


def log_sizes(mask: Tensor, like: Tensor) -> Tensor:
    """Return the logarithms of the numbers of atoms (B, 1, 1), of size 1."""
    return mask.sum(1).clamp_min(1).to(like).log()[:, None, None] - 2


def perceptron(channels: int, hidden: int, size: int) -> nn.Sequential:
    """Make two layers."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, size))
