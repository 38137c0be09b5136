"""The latent vector z of CDVAE: its distribution given a crystal, and its prior."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.models.crysldm_networks import atom_means
from crysgen.networks.embedding import step_features
from crysgen.networks.precision import full

_LOG_SIGMA = (-8.0, 4.0)
"""Between which the logarithms of standard deviations of z are."""
_FIRST_MEAN, _FIRST_LOG_SIGMA = 4.0, -2.0
"""Factor of the first weights of means of z, and shift of its first standard deviations: where the
noise of z hides its means, hundreds of steps pass before anything is learned from them."""


class Distribution(NamedTuple):
    """Normal distributions of z (B, D).

    Attributes:
        mean: (B, D).
        log_sigma: (B, D).
    """

    mean: Tensor
    log_sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return z by normal numbers (B, D)."""
        return self.mean + self.log_sigma.exp() * noise

    def divergence(self) -> Tensor:
        """Compute KL(q || N(0, 1)) (B,)."""
        each = (self.mean.square() + (2 * self.log_sigma).exp() - 1) / 2 - self.log_sigma
        return each.sum(-1)


class LatentHead(nn.Module):
    """From features of atoms to the distribution of z.

    Args:
        channels: of an atom.
        hidden_channels: of the mean over atoms.
        latent_channels: D.
    """

    def __init__(self, channels: int, hidden_channels: int, latent_channels: int) -> None:
        super().__init__()
        self.atoms = nn.Linear(channels, hidden_channels)
        self.mean = nn.Linear(hidden_channels, latent_channels)
        self.spread = nn.Linear(hidden_channels, latent_channels)
        with torch.no_grad():
            self.mean.weight.mul_(_FIRST_MEAN)
            self.spread.bias.add_(_FIRST_LOG_SIGMA)

    def forward(self, nodes: Tensor, mask: Tensor) -> Distribution:
        """Return distributions of z of atoms (B, N, C) with mask (B, N)."""
        pooled = atom_means(silu(self.atoms(nodes)), mask)
        mean, spread = full(self.mean(pooled)), full(self.spread(pooled))
        return Distribution(mean, (spread - 1).clamp(*_LOG_SIGMA))


class Flow(nn.Module):
    """Velocities of a flow from normal numbers to the latents of real crystals.

    Appendix D.3 finds that latents are not normal, so that z ~ N(0, 1) gives crystals of too many
    elements, and suggests a flow.

    Args:
        latent_channels: D.
        hidden_channels: of its layers.
        layers: how many.
    """

    def __init__(self, latent_channels: int, hidden_channels: int, layers: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(latent_channels, hidden_channels)
        self.time = nn.Linear(hidden_channels, hidden_channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden_channels),
                nn.Linear(hidden_channels, hidden_channels),
                nn.SiLU(),
                nn.Linear(hidden_channels, hidden_channels),
            )
            for _ in range(layers)
        )
        self.last = nn.Linear(hidden_channels, latent_channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, points: Tensor, time: Tensor) -> Tensor:
        """Return velocities (B, D) at points (B, D) and times (B,), 0 for noise and 1 for data."""
        described = step_features(time, self.time.in_features)
        hidden = self.first(points) + self.time(described)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        velocities: Tensor = self.last(silu(hidden))
        return velocities.to(points)
