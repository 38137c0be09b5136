"""Networks of CrysLDM: the autoencoder of atoms and cells, and the denoiser of their latents.

Each is a CSPNet between an embedding and heads. What cells and their latents are, and how they are
changed by the invariant numbers that a network gives, is that of `crysgen.models.crysldm_cells`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crysgen.models.crysldm_cells import CellForm
from crysgen.networks.cspnet import CSPNet
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER, AtomEmbedding, step_features

_SMALL = 0.1
"""Factor of the first weights of heads: a new model hardly bends cells."""
_LOG_SIGMA = (-10.0, 5.0)
"""Between which the logarithms of standard deviations of latents are."""


class Latents(NamedTuple):
    """Latent variables of B crystals, or anything of the same form, such as noise.

    Attributes:
        atoms: (B, N, D) z_h, invariant; without meaning on padding.
        cell: (B, R, C) z_L, of the form of cells.
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


class LatentScale(nn.Module):
    """Mean and standard deviation of latents, by which those of a new crystal are of unit size.

    Until `fit` they are left as they are. Noise of the diffusion is 1, whatever size an autoencoder
    gives its latents (Rombach et al., 2022).

    Args:
        latent_channels: D of an atom.
        form: of cells.
    """

    atoms_mean: Tensor
    atoms_std: Tensor
    cell_mean: Tensor
    cell_std: Tensor

    def __init__(self, latent_channels: int, form: CellForm) -> None:
        super().__init__()
        self.form = form
        for name, shape in (("atoms", (latent_channels,)), ("cell", form.shape)):
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_std", torch.ones(shape))

    def fit(self, atoms: Tensor, cells: Tensor) -> None:
        """Set the numbers by latents (M, D) of M atoms and (B, R, C) of B cells."""
        mean, std = self.form.spread(cells)
        for old, new in (
            (self.atoms_mean, atoms.mean(0)),
            (self.atoms_std, atoms.std(0, correction=0).clamp_min(1e-3)),
            (self.cell_mean, mean),
            (self.cell_std, std),
        ):
            old.copy_(new)

    def standardized(self, latents: Latents) -> Latents:
        """Return latents of mean 0 and size 1."""
        return Latents(
            (latents.atoms - self.atoms_mean) / self.atoms_std,
            (latents.cell - self.cell_mean) / self.cell_std,
        )

    def restored(self, latents: Latents) -> Latents:
        """Undo `standardized`."""
        return Latents(
            latents.atoms * self.atoms_std + self.atoms_mean,
            latents.cell * self.cell_std + self.cell_mean,
        )


class Encoder(nn.Module):
    """E of Eq. 3: distributions of the latents of crystals.

    Args:
        network: between embedding and heads.
        latent_channels: D of an atom.
        form: of cells.
    """

    def __init__(self, network: CSPNet, latent_channels: int, form: CellForm) -> None:
        super().__init__()
        self.network, channels, self.form = network, network.channels, form
        self.numbers = math.prod(form.shape)
        self.embedding = AtomEmbedding(channels, step=False)
        self.size = nn.Linear(1, channels)
        self.atoms = nn.Linear(channels, 2 * latent_channels)
        self.cell = _head(channels, self.numbers + 1)

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, cells: Tensor, mask: Tensor
    ) -> Distribution:
        """Encode B crystals.

        Args:
            atomic_numbers: (B, N).
            frac_coords: (B, N, 3).
            cells: (B, R, C).
            mask: (B, N) where atoms are.
        """
        nodes = self.embedding(atomic_numbers, cells[:, 0, 0]) + _sizes(self.size, mask)
        nodes = self.network(nodes, frac_coords, self.form.invariants(cells), mask)
        mean, spread = self.atoms(nodes).to(cells).chunk(2, -1)
        about = self.cell(atom_means(nodes, mask)).to(cells)
        return Distribution(
            Latents(mean, cells + self.form.change(about[:, : self.numbers], cells)),
            (spread - 1).clamp(*_LOG_SIGMA),
            (about[:, self.numbers, None, None] - 1).clamp(*_LOG_SIGMA),
        )


class Decoder(nn.Module):
    """D of Eq. 4: types and cells of latents and positions.

    Args:
        network: between embedding and heads.
        latent_channels: D of an atom.
        form: of cells.
    """

    def __init__(self, network: CSPNet, latent_channels: int, form: CellForm) -> None:
        super().__init__()
        self.network, channels, self.form = network, network.channels, form
        self.numbers = math.prod(form.shape)
        self.embedding = nn.Linear(latent_channels, channels)
        self.size = nn.Linear(1, channels)
        self.atoms = nn.Linear(channels, MAX_ATOMIC_NUMBER)
        self.cell = _head(channels, self.numbers)

    def forward(self, latents: Latents, frac_coords: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode B crystals.

        Args:
            latents: of them.
            frac_coords: (B, N, 3).
            mask: (B, N) where atoms are.

        Returns:
            Logits (B, N, 118) of atomic numbers from 1 on, and cells (B, R, C) as the encoder is
            given them.
        """
        nodes = self.embedding(latents.atoms) + _sizes(self.size, mask)
        nodes = self.network(nodes, frac_coords, self.form.invariants(latents.cell), mask)
        about = self.cell(atom_means(nodes, mask)).to(latents.cell)
        cells = latents.cell + self.form.change(about, latents.cell)
        return self.atoms(nodes).to(latents.cell), cells


class Denoiser(nn.Module):
    """f_θ of Algorithm 1, over noisy latents and positions.

    It gives velocities, v = sqrt(ᾱ) ε - sqrt(1 - ᾱ) z_0 (Salimans & Ho, 2022), which are as large
    as latents at every step; the paper's ε̂ follows from them without a division.

    Args:
        network: between embedding and heads.
        latent_channels: D of an atom.
        form: of cells.
    """

    def __init__(self, network: CSPNet, latent_channels: int, form: CellForm) -> None:
        super().__init__()
        self.network, channels, self.form = network, network.channels, form
        self.numbers = math.prod(form.shape)
        self.embedding = nn.Linear(latent_channels, channels)
        self.told = AtomEmbedding(channels, step=False)
        self.size = nn.Linear(1, channels)
        self.step = nn.Linear(channels, channels)
        self.atoms = _head(channels, latent_channels)
        self.cell = _head(channels, self.numbers)
        self.positions = _head(channels, 3)

    def forward(
        self,
        noisy: Latents,
        frac_coords: Tensor,
        share: Tensor,
        told: Tensor,
        mask: Tensor,
        lattices: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> tuple[Latents, Tensor]:
        """Predict what leads to the clean crystal.

        Args:
            noisy: latents.
            frac_coords: (B, N, 3) noisy.
            share: (B,) the step divided by T.
            told: (B, N) atomic numbers that are known; 0 where they are not.
            mask: (B, N) where atoms are.
            lattices: (B, 3, 3) that are expected, for a network that knows distances.
            groups: (B, N) equal numbers for atoms of one element, for one that is told them.

        Returns:
            Velocities of the latents, and displacements (B, N, 3) of positions in units of their
            size at the step.
        """
        nodes = self.embedding(noisy.atoms) + self.told(told, share) + _sizes(self.size, mask)
        nodes = nodes + self.step(step_features(share, self.network.channels))[:, None]
        cells = self.form.invariants(noisy.cell)
        nodes = self.network(nodes, frac_coords, cells, mask, lattices, noisy.atoms, groups)
        about = self.cell(atom_means(nodes, mask)).to(noisy.cell)
        velocities = Latents(self.atoms(nodes).to(noisy.cell), self.form.change(about, noisy.cell))
        return velocities, self.positions(nodes).to(frac_coords)


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Give every atom the mean of values (B, N, C) over the atoms of its group (B, N)."""
    same = (groups[:, :, None] == groups[:, None]).to(values)
    return (same / same.sum(-1, keepdim=True)) @ values


def atom_means(values: Tensor, mask: Tensor) -> Tensor:
    """Average values (B, N, ...) over the atoms (B, N) of each crystal."""
    weights = mask.to(values) / mask.sum(1, keepdim=True).clamp_min(1)
    return (values * weights.reshape(*mask.shape, *[1] * (values.ndim - 2))).sum(1)


def _divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    return (mean.square() + (2 * log_sigma).exp() - 1) / 2 - log_sigma


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
