"""Networks of CrysLDM: the autoencoder of atoms and cells, and the denoiser of their latents.

Each is a CSPNet between an embedding and heads. Cells and their latents are matrices of lattice
vectors as rows, which turn with the crystal: every one that is predicted is M L with a matrix M of
invariant numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crysgen.networks.cspnet import CSPNet, combine_rows
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER, AtomEmbedding, step_features

_SMALL = 0.1
"""Factor of the first weights of heads: a new model hardly bends cells."""
_LOG_SIGMA = (-10.0, 5.0)
"""Between which the logarithms of standard deviations of latents are."""


class Latents(NamedTuple):
    """Latent variables of B crystals, or anything of the same form, such as noise.

    Attributes:
        atoms: (B, N, D) z_h, invariant; without meaning on padding.
        cell: (B, 3, 3) z_L, rows that turn with the lattice.
    """

    atoms: Tensor
    cell: Tensor


class Distribution(NamedTuple):
    """Normal distributions of latents, of which the cell's is the same in all directions.

    Attributes:
        mean: of the latents.
        atoms_log_sigma: (B, N, D).
        cell_log_sigma: (B, 1, 1).
    """

    mean: Latents
    atoms_log_sigma: Tensor
    cell_log_sigma: Tensor

    def sample(self, noise: Latents) -> Latents:
        """Return latents by normal numbers (Algorithm 1, lines 6 and 7)."""
        return Latents(
            self.mean.atoms + self.atoms_log_sigma.exp() * noise.atoms,
            self.mean.cell + self.cell_log_sigma.exp() * noise.cell,
        )

    def divergence(self, mask: Tensor) -> Tensor:
        """Compute KL(q || N(0, 1)) (B,) of Eq. 5: atoms' mean, plus the cell's."""
        atoms = _divergence(self.mean.atoms, self.atoms_log_sigma).sum(-1)
        cell = _divergence(self.mean.cell, self.cell_log_sigma).sum((1, 2))
        return atom_means(atoms, mask) + cell


class Encoder(nn.Module):
    """E of Eq. 3: distributions of the latents of crystals.

    Args:
        network: between embedding and heads.
        latent_channels: D of an atom.
    """

    def __init__(self, network: CSPNet, latent_channels: int) -> None:
        super().__init__()
        self.network, channels = network, network.channels
        self.embedding = AtomEmbedding(channels, step=False)
        self.size = nn.Linear(1, channels)
        self.atoms = nn.Linear(channels, 2 * latent_channels)
        self.cell = _head(channels, 10)

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, cells: Tensor, mask: Tensor
    ) -> Distribution:
        """Encode B crystals.

        Args:
            atomic_numbers: (B, N).
            frac_coords: (B, N, 3).
            cells: (B, 3, 3) rows, in units in which entries are about 1.
            mask: (B, N) where atoms are.
        """
        nodes = self.embedding(atomic_numbers, cells[:, 0, 0]) + _sizes(self.size, mask)
        nodes = self.network(nodes, frac_coords, cells, mask)
        mean, spread = self.atoms(nodes).to(cells).chunk(2, -1)
        about = self.cell(atom_means(nodes, mask)).to(cells)
        return Distribution(
            Latents(mean, _bent(about[:, :9], cells)),
            (spread - 1).clamp(*_LOG_SIGMA),
            (about[:, 9, None, None] - 1).clamp(*_LOG_SIGMA),
        )


class Decoder(nn.Module):
    """D of Eq. 4: types and cells of latents and positions.

    Args:
        network: between embedding and heads.
        latent_channels: D of an atom.
    """

    def __init__(self, network: CSPNet, latent_channels: int) -> None:
        super().__init__()
        self.network, channels = network, network.channels
        self.embedding = nn.Linear(latent_channels, channels)
        self.size = nn.Linear(1, channels)
        self.atoms = nn.Linear(channels, MAX_ATOMIC_NUMBER)
        self.cell = _head(channels, 9)

    def forward(self, latents: Latents, frac_coords: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode B crystals.

        Args:
            latents: of them.
            frac_coords: (B, N, 3).
            mask: (B, N) where atoms are.

        Returns:
            Logits (B, N, 118) of atomic numbers from 1 on, and cells (B, 3, 3) in the units of the
            encoder.
        """
        nodes = self.embedding(latents.atoms) + _sizes(self.size, mask)
        nodes = self.network(nodes, frac_coords, latents.cell, mask)
        about = self.cell(atom_means(nodes, mask)).to(latents.cell)
        return self.atoms(nodes).to(latents.cell), _bent(about, latents.cell)


class Denoiser(nn.Module):
    """f_θ of Algorithm 1, over noisy latents and positions.

    It gives velocities, v = sqrt(ᾱ) ε - sqrt(1 - ᾱ) z_0 (Salimans & Ho, 2022), which are as large
    as latents at every step; the paper's ε̂ follows from them without a division.

    Args:
        network: between embedding and heads.
        latent_channels: D of an atom.
    """

    def __init__(self, network: CSPNet, latent_channels: int) -> None:
        super().__init__()
        self.network, channels = network, network.channels
        self.embedding = nn.Linear(latent_channels, channels)
        self.told = AtomEmbedding(channels, step=False)
        self.size = nn.Linear(1, channels)
        self.step = nn.Linear(channels, channels)
        self.atoms = _head(channels, latent_channels)
        self.cell = _head(channels, 9)
        self.positions = _head(channels, 3)

    def forward(
        self, noisy: Latents, frac_coords: Tensor, share: Tensor, told: Tensor, mask: Tensor
    ) -> tuple[Latents, Tensor]:
        """Predict what leads to the clean crystal.

        Args:
            noisy: latents.
            frac_coords: (B, N, 3) noisy.
            share: (B,) the step divided by T.
            told: (B, N) atomic numbers that are known; 0 where they are not.
            mask: (B, N) where atoms are.

        Returns:
            Velocities of the latents, and displacements (B, N, 3) of positions in units of their
            size at the step.
        """
        nodes = self.embedding(noisy.atoms) + self.told(told, share) + _sizes(self.size, mask)
        nodes = nodes + self.step(step_features(share, self.network.channels))[:, None]
        nodes = self.network(nodes, frac_coords, noisy.cell, mask)
        about = self.cell(atom_means(nodes, mask)).to(noisy.cell)
        matrix = about.unflatten(-1, (3, 3))
        velocities = Latents(self.atoms(nodes).to(noisy.cell), combine_rows(matrix, noisy.cell))
        return velocities, self.positions(nodes).to(frac_coords)


def atom_means(values: Tensor, mask: Tensor) -> Tensor:
    """Average values (B, N, ...) over the atoms (B, N) of each crystal."""
    weights = mask.to(values) / mask.sum(1, keepdim=True).clamp_min(1)
    return (values * weights.reshape(*mask.shape, *[1] * (values.ndim - 2))).sum(1)


def _divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    return (mean.square() + (2 * log_sigma).exp() - 1) / 2 - log_sigma


def _bent(numbers: Tensor, cells: Tensor) -> Tensor:
    """Return (1 + M) L for M (B, 9) and L (B, 3, 3)."""
    return cells + combine_rows(numbers.unflatten(-1, (3, 3)), cells)


def _sizes(layer: nn.Module, mask: Tensor) -> Tensor:
    """Describe the number of atoms (B, 1, C)."""
    counts = mask.sum(1).clamp_min(1)
    weight = next(layer.parameters())
    described: Tensor = layer(counts.to(weight).log()[:, None, None] - 2)
    return described


def _head(channels: int, size: int) -> nn.Sequential:
    """Make the last layers, whose results are small at first."""
    last = nn.Linear(channels, size)
    with torch.no_grad():
        last.weight *= _SMALL
        last.bias.zero_()
    return nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), last)
