"""CSPNet: messages between all pairs of a cell's atoms (CrysLDM, Appendix C; DiffCSP, Section 4.3).

A message knows the fractional difference of its pair, as sines and cosines, which are the same for
every image, and six numbers of the lattice, such as its Gram matrix. With lattice vectors as rows,
L, that is L Lᵀ: the paper's LᵀL belongs to columns, and would turn with the crystal here. There is
no search for neighbours and, unless it is asked for, nothing that depends on distances, so latent
lattices, which are in no unit, do too.

Features are the same under rotation, reflection and translation, but not for another choice of
cell vectors: cells have to be reduced, as those of training are. `crysgen.networks.csp_backbone`
makes a backbone of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.diffusion.torus import shortest_path
from crysgen.matrices import determinants

GRAM = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Entries of the symmetric matrix that are read."""
_FARTHEST = 2.2
"""Distance in units of (V/N)^(1/3) at which images of a pair are no longer seen."""


class CSPNet(nn.Module):
    """Layers of messages on features of atoms, dense: shapes follow from those of the inputs.

    Args:
        channels: width of atoms' features and of messages.
        layers: how many.
        frequencies: of the sines and cosines of fractional differences; DiffCSP has 128.
        radial: functions of distances that messages know, too; the paper has none.
        alike: functions that tell them how alike two atoms are at first; the paper has none.
        same: whether they are told which atoms are of one element; the paper's are not.
    """

    def __init__(
        self,
        channels: int = 128,
        layers: int = 4,
        frequencies: int = 10,
        radial: int = 0,
        alike: int = 0,
        same: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.frequencies = channels, frequencies
        self.radial, self.alike, self.same = radial, alike, same
        pairs = 6 * frequencies + radial + alike + int(same)
        self.blocks = nn.ModuleList(Messages(channels, pairs, len(GRAM)) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        nodes: Tensor,
        frac_coords: Tensor,
        cells: Tensor,
        mask: Tensor,
        lattices: Tensor | None = None,
        atoms: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Return features (B, N, C) of atoms; without meaning on padding.

        Args:
            nodes: (B, N, C) first features.
            frac_coords: (B, N, 3), wrapped or not.
            cells: (B, 6) invariant numbers of the lattice, of unit size, such as `gram_entries`.
            mask: (B, N) where atoms are.
            lattices: (B, 3, 3) in which distances are measured, where there are radial functions.
            atoms: (B, N, D) what atoms are, of unit size, where it is to be compared.
            groups: (B, N) equal numbers for atoms of one element, where that is told.
        """
        features = [pair_waves(frac_coords, self.frequencies)]
        if self.radial:
            assert lattices is not None, "radial functions need lattices"
            features.append(pair_distances(frac_coords, lattices, mask.sum(1), self.radial))
        if self.alike:
            assert atoms is not None, "nothing tells atoms apart"
            features.append(pair_likeness(atoms, self.alike))
        if self.same:
            assert groups is not None, "nothing tells elements apart"
            features.append((groups[:, :, None] == groups[:, None])[..., None].to(frac_coords))
        pairs = torch.cat(features, -1)
        if torch.is_autocast_enabled(pairs.device.type):
            # Once, not in each layer: they are the largest input of all.
            pairs = pairs.to(torch.get_autocast_dtype(pairs.device.type))
        present = mask.to(frac_coords)
        weights = present / present.sum(1, keepdim=True).clamp_min(1)
        for block in self.blocks:
            nodes = block(nodes, pairs, cells, weights)
        normed: Tensor = self.norm(nodes)
        return normed


class Messages(nn.Module):
    """One layer (Eqs. 13 and 14): messages of all pairs, and an update of atoms.

    The first layer of ρ_m is a sum of one matrix for each of its inputs, so that only what belongs
    to pairs is multiplied for each pair. Messages are averaged over atoms, as in DiffCSP's
    program, where the paper sums them: features do not grow with the cell.
    """

    def __init__(self, channels: int, pairs: int, cells: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(channels)
        self.ends = nn.Linear(channels, 2 * channels)
        self.pairs = nn.Linear(pairs, channels, bias=False)
        self.cells = nn.Linear(cells, channels, bias=False)
        self.message = nn.Linear(channels, channels)
        self.inner = nn.Linear(2 * channels, channels)
        self.outer = nn.Linear(channels, channels)

    def forward(self, nodes: Tensor, pairs: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
        """Update atoms (B, N, C).

        Args:
            nodes: (B, N, C).
            pairs: (B, N, N, F) features.
            cells: (B, 6) of lattices.
            weights: (B, N) 1/N where atoms are, 0 on padding.
        """
        normed = self.before(nodes)
        first, second = self.ends(normed).chunk(2, -1)
        receiving = first + self.cells(cells)[:, None]
        hidden = silu(self.pairs(pairs) + receiving[:, :, None] + second[:, None])
        messages = silu(self.message(hidden))
        mean = (messages * weights[:, None, :, None].to(messages)).sum(2)
        update = self.outer(silu(self.inner(torch.cat([normed, mean.to(normed)], -1))))
        return nodes + update


def pair_waves(frac_coords: Tensor, frequencies: int) -> Tensor:
    """Compute sines and cosines (B, N, N, 6 K) of 2πk (x_j - x_i) for k = 1 to K (ψ_FT of Eq. 13).

    By the sums of angles, from those of single atoms: a few products for each pair.
    """
    orders = torch.arange(1, frequencies + 1, dtype=frac_coords.dtype, device=frac_coords.device)
    # Wrapped first: sines of large angles lose digits.
    wrapped = frac_coords - frac_coords.floor()
    angles = (2 * math.pi * wrapped[..., None] * orders).flatten(-2)
    sines, cosines = angles.sin(), angles.cos()
    first_sine, second_sine = sines[:, :, None], sines[:, None]
    first_cosine, second_cosine = cosines[:, :, None], cosines[:, None]
    return torch.cat(
        [
            second_sine * first_cosine - second_cosine * first_sine,
            second_cosine * first_cosine + second_sine * first_sine,
        ],
        -1,
    )


def pair_distances(frac_coords: Tensor, lattices: Tensor, num_atoms: Tensor, count: int) -> Tensor:
    """Compute radial functions (B, N, N, K) of the distances of pairs, summed over 27 images.

    Distances are in units of (V/N)^(1/3), which keeps those of any noisy cell in range.

    Args:
        frac_coords: (B, N, 3), wrapped or not.
        lattices: (B, 3, 3) rows, of any unit.
        num_atoms: (B,).
        count: K, normal curves at even distances.
    """
    volumes = determinants(lattices).abs().clamp_min(1e-6)
    units = (volumes / num_atoms.clamp_min(1)).pow(1 / 3)
    cells = lattices / units[:, None, None]
    paths = shortest_path(frac_coords[:, :, None], frac_coords[:, None])
    here = (paths[..., None] * cells[:, None, None]).sum(-2)
    steps = torch.arange(-1, 2, dtype=here.dtype, device=here.device)
    shifts = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(27, 3)
    images = (shifts[:, :, None] * cells[:, None]).sum(-2)
    square = (here[:, :, :, None] + images[:, None, None]).square().sum(-1)
    spacing = _FARTHEST / (count + 1)
    ways = square.clamp_max(_FARTHEST**2).clamp_min(1e-24).sqrt() / spacing
    fade = (1 - (square / _FARTHEST**2)).clamp_min(0).square()
    # exp(-(d - k - 1)²/2) is exp(-(d - k)²/2) times exp(d - k - 1/2): two exponentials for all
    # curves, from the middle on, where none is too small to go on from.
    middle = (count + 1) // 2
    first = fade * (-(ways - middle).square() / 2).exp()
    grown = ways.exp()
    sums = {middle: first.sum(-1)}
    curve = first
    for k in range(middle, count):
        curve = curve * grown * math.exp(-k - 0.5)
        sums[k + 1] = curve.sum(-1)
    curve, shrunk = first, 1 / grown
    for k in range(middle, 1, -1):
        curve = curve * shrunk * math.exp(k - 0.5)
        sums[k - 1] = curve.sum(-1)
    return torch.stack([sums[k] for k in range(1, count + 1)], -1)


def pair_likeness(atoms: Tensor, count: int) -> Tensor:
    """Compute normal curves (B, N, N, K) of the differences of atoms, each twice as wide.

    A message is a sum of two atoms' features before it is bent, and learns slowly to compare them.

    Args:
        atoms: (B, N, D) of unit size.
        count: K; the first is 0.1 wide.
    """
    square = (atoms[:, :, None] - atoms[:, None]).square().mean(-1, keepdim=True)
    orders = torch.arange(count, dtype=atoms.dtype, device=atoms.device)
    return (-square / 2 / (0.1 * 2**orders).square()).exp()


def gram_entries(lattices: Tensor) -> Tensor:
    """Compute the six different entries (B, 6) of L Lᵀ, for lattice vectors as rows (B, 3, 3).

    As sums of products, which are not rounded to 16 bits where matrix products are.
    """
    products = (lattices[:, :, None] * lattices[:, None]).sum(-1)
    return torch.stack([products[:, i, j] for i, j in GRAM], -1)


def combine_rows(weights: Tensor, lattices: Tensor) -> Tensor:
    """Combine lattice vectors: M L (B, 3, 3), which turns with L where M does not (Eq. 15).

    The paper's L M belongs to columns.
    """
    return (weights[..., None] * lattices[..., None, :, :]).sum(-2)
