"""Geometry for PairFormer: radial functions of all images of a pair, and of the lattice.

Distances are used twice: divided by (V/N)^(1/3), which keeps any noisy cell in range, and by the
sum of two learned radii, which says at once whether two atoms of these elements touch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from crysgen.matrices import inverses
from crysgen.networks.base import Estimate
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER
from crysgen.networks.neighbours import Neighbours

_FIRST_RADIUS = 1.3
"""Å, before learning."""


class PairBasis(NamedTuple):
    """Geometry of the neighbours of B x N atoms, and of the pairs of atoms they belong to.

    Attributes:
        pairs: (B, N, N, K) radial functions, summed over the images of a pair.
        basis: (B, N, k, K) the same for each neighbour.
        units: (B, N, k, 3) directions.
        which: (B, N, k, N) 1 where a neighbour is an image of an atom.
        fade: (B, N, k) 1 to 0 from the atom to the cutoff; 0 on padding.
    """

    pairs: Tensor
    basis: Tensor
    units: Tensor
    which: Tensor
    fade: Tensor

    def sums(self, coefficients: Tensor) -> Tensor:
        """Sum (B, N, k, F) the radial functions of each neighbour times coefficients of its pair.

        Args:
            coefficients: (B, N, N, F K).
        """
        batch, size, _, width = self.basis.shape
        of_all = coefficients.to(self.basis).reshape(batch, size, -1, width)
        with_all = (self.basis @ of_all.mT).unflatten(-1, (size, -1))
        return (with_all * self.which[..., None]).sum(-2)


class PairGeometry(nn.Module):
    """Features of all neighbours and pairs.

    Args:
        radial: basis functions of each of the two distances.
    """

    centres: Tensor
    touching: Tensor

    def __init__(self, radial: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.3, 2.9, radial), persistent=False)
        self.register_buffer("touching", torch.linspace(0.4, 2.2, radial), persistent=False)
        start = math.log(math.expm1(_FIRST_RADIUS))
        self.radii = nn.Parameter(torch.full((MAX_ATOMIC_NUMBER + 1,), start))

    def forward(self, atomic_numbers: Tensor, length: Tensor, neighbours: Neighbours) -> PairBasis:
        """Describe the neighbours and pairs of B crystals with N atoms.

        Args:
            atomic_numbers: (B, N).
            length: (B,) (V/N)^(1/3) in Å.
            neighbours: in Å.
        """
        distances = neighbours.distances.clamp_min(1e-6)
        radii = softplus(self.radii)[atomic_numbers]
        size = atomic_numbers.shape[1]
        # Which atom each neighbour is, as a matrix: sums over images are products, and so are
        # their gradients, in the same order every time.
        places = torch.arange(size, device=distances.device)
        which = (neighbours.index[..., None] == places).to(distances)
        sums = radii[:, :, None] + (which @ radii[:, None, :, None]).squeeze(-1)
        basis = self._radial(distances, length, sums)
        fade = (1 - (distances / neighbours.cutoff[..., None]).pow(4)).clamp_min(0).square()
        fade = fade * (atomic_numbers > 0)[:, :, None]
        basis = basis * fade[..., None]
        units = neighbours.vectors / distances[..., None]
        return PairBasis(which.mT @ basis, basis, units, which, fade)

    def estimated(
        self,
        atomic_numbers: Tensor,
        length: Tensor,
        neighbours: Neighbours,
        basis: PairBasis,
        lattices: Tensor,
        estimate: Estimate,
    ) -> Tensor:
        """(B, N, N, K) radial functions of the neighbours where an estimate has them.

        The images that are neighbours now, at their places in the estimated crystal: static shapes,
        without another search.

        Args:
            atomic_numbers: (B, N).
            length: (B,) (V/N)^(1/3) in Å, now.
            neighbours: in Å, now.
            basis: of `forward`.
            lattices: (B, 3, 3) rows in Å, now.
            estimate: of the clean crystals.
        """
        moved = estimate.displacement.to(lattices) @ estimate.lattices.to(lattices)
        bend = inverses(lattices) @ estimate.lattices.to(lattices)
        vectors = neighbours.vectors @ bend[:, None]
        vectors = vectors + basis.which @ moved[:, None] - moved[:, :, None]
        distances = vectors.norm(dim=-1).clamp_min(1e-6)
        radii = softplus(self.radii)[atomic_numbers]
        sums = radii[:, :, None] + (basis.which @ radii[:, None, :, None]).squeeze(-1)
        fade = basis.fade * estimate.known.to(basis.fade)[:, None, None]
        found = self._radial(distances, length, sums) * fade[..., None]
        return basis.which.mT @ found

    def _radial(self, distances: Tensor, length: Tensor, sums: Tensor) -> Tensor:
        return torch.cat(
            [
                gaussians(distances / length[:, None, None], self.centres),
                gaussians(distances / sums, self.touching),
            ],
            dim=-1,
        )


class LatticeGeometry(nn.Module):
    """The lattice itself, as the set of its shortest vectors.

    Atoms of a large cell have no images of their own among their neighbours, and while positions
    are noise nothing else shows the cell. The set is the same for every choice of cell vectors.
    The tensors T_a = Σ_v g_a(|v|) v̂ v̂ᵀ are looked at along each v, which tells angles.

    Args:
        channels: width of the crystal's features.
        radial: basis functions of the length.
        tensors: how many T_a.
    """

    centres: Tensor

    def __init__(self, channels: int, radial: int, tensors: int = 16) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.3, 2.9, radial), persistent=False)
        self.mix = nn.Linear(radial, tensors, bias=False)
        self.inner = nn.Linear(radial + 2 * tensors, channels)
        self.context = nn.Linear(channels, channels)
        self.hidden = nn.Sequential(nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())
        self.out = nn.Linear(channels, channels)

    def forward(
        self, lengths: Tensor, vectors: Tensor, cutoff: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Describe B lattices.

        Args:
            lengths: (B,) V^(1/3) in Å.
            vectors: (B, m, 3) the shortest in Å.
            cutoff: (B,) length of the first that is left out.
            context: (B, C) of composition and step.

        Returns:
            (B, C) about the crystal; (B, m, C) about each vector; (B, m, 3) its direction.
        """
        distances = vectors.norm(dim=-1).clamp_min(1e-6)
        units = vectors / distances[..., None]
        fade = (1 - (distances / cutoff[:, None]).pow(4)).clamp_min(0).square()
        basis = gaussians(distances / lengths[:, None], self.centres) * fade[..., None]
        weights = self.mix(basis)  # (B, m, A)
        # (v̂ · ŵ)² summed over w with weights is v̂ᵀ T v̂.
        squares = (units @ units.mT).square()
        along = squares @ weights / basis.shape[1] ** 0.5
        means = (weights * along).sum(1, keepdim=True).expand_as(along) / basis.shape[1] ** 0.5
        inner = self.inner(torch.cat([basis, along, means], -1)) + self.context(context)[:, None]
        each = self.hidden(inner) * fade[..., None]
        return self.out(each.mean(1)), each, units


def gaussians(values: Tensor, centres: Tensor) -> Tensor:
    """Compute Gaussians (..., K) as wide as their centres are apart."""
    step = centres[1] - centres[0]
    return torch.exp(-((values[..., None] - centres) / step).square())
