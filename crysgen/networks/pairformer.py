"""PairFormer: attention over the atoms of a cell, with periodic pair geometry.

The fast backbone. All images of a neighbour are summed into one feature vector of the pair, so
that a layer costs N² pairs of a cell instead of 32 N edges and their triplets, as dense matrix
products. What a sum over images and a radial basis loses, angles, comes back through vectors and
tensors of each atom's surroundings, whose lengths and products feed the next layer.

Distances are used twice: divided by (V/N)^(1/3), which keeps any noisy cell in range, and by the
sum of two learned radii, which says at once whether two atoms of these elements touch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, scaled_dot_product_attention, softplus

from crysgen.neighbours import Neighbours
from crysgen.networks.base import Fields, Network
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER, AtomEmbedding

_NINE = 9
"""Components of a direction (3) and of its square, a symmetric tensor (6)."""
_FIELDS = 2
"""Displacements and strain."""
_SMALL = 0.03
"""Of the last weights: a new network hardly moves anything."""
_PER_RADIAL = 2
"""Values of an atom that are summed with each radial function."""
_FIRST_RADIUS = 1.3
"""Å, before learning."""


class PairFormer(Network):
    """Attention with pair geometry; see the module.

    Args:
        channels: width of an atom's features.
        layers: of attention.
        heads: of each layer; divides `channels`.
        radial: basis functions of each of the two distances.
        angular: radial functions of the vectors and tensors.
        k: neighbours of each atom that are seen.
    """

    def __init__(
        self,
        channels: int = 192,
        layers: int = 6,
        heads: int = 8,
        radial: int = 16,
        angular: int = 16,
        k: int = 32,
    ) -> None:
        super().__init__()
        self.k, self.angular = k, angular
        self.embedding = AtomEmbedding(channels)
        self.scale = nn.Linear(1, channels)
        self.geometry = PairGeometry(radial, angular)
        self.blocks = nn.ModuleList(
            Block(channels, heads, 2 * radial, angular) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.senders = nn.Linear(channels, 2 * _FIELDS * angular)
        self.receivers = nn.Linear(channels, 2 * _FIELDS * angular)
        self.atom_fields = nn.Linear(channels, _FIELDS * _PER_RADIAL * angular + 1)
        for layer in (self.senders, self.receivers, self.atom_fields):
            nn.init.normal_(layer.weight, std=_SMALL / math.sqrt(channels))
            nn.init.zeros_(layer.bias)

    def forward(
        self, atomic_numbers: Tensor, lattices: Tensor, step: Tensor, neighbours: Neighbours
    ) -> Fields:
        """See `Network.forward`."""
        mask = atomic_numbers > 0
        length = (torch.linalg.det(lattices).abs() / mask.sum(1)).pow(1 / 3)
        geometry = self.geometry(atomic_numbers, length, neighbours)
        atoms = self.embedding(atomic_numbers, step) + self.scale(length.log()[:, None, None] - 1)
        hidden = torch.zeros_like(mask, dtype=atoms.dtype).masked_fill(~mask, -1e4)
        moments = atoms.new_zeros(*mask.shape, _NINE, _PER_RADIAL * self.angular)
        for block in self.blocks:
            atoms, moments = block(atoms, moments, geometry, hidden[:, None, None])
        with torch.autocast(length.device.type, enabled=False):
            return self._fields(
                atoms.to(length), moments.to(length), geometry, lattices, length, mask
            )

    def _fields(
        self,
        atoms: Tensor,
        moments: Tensor,
        geometry: PairFeatures,
        lattices: Tensor,
        length: Tensor,
        mask: Tensor,
    ) -> Fields:
        """Vectors and tensors of pairs and atoms, summed with coefficients of the atoms.

        The coefficient of each radial function of a pair is a_i + b_j + c_i d_j, for vectors and
        for tensors separately.
        """
        atoms = self.norm(atoms)
        batch, size = mask.shape
        shape = (batch, size, _FIELDS, 2, self.angular)
        sent = self.senders(atoms).view(shape)
        received = self.receivers(atoms).view(shape)
        own = self.atom_fields(atoms)
        ones = torch.ones_like(sent[:, :, :1, 0])
        rows = torch.cat([ones, sent[:, :, :, 0], sent[:, :, :, 1]], dim=2)  # 1, b and d of each
        summed = geometry.sum_angular(rows)  # (B, N, 9, rows, angular)
        six = []
        for field, part in ((0, slice(0, 3)), (1, slice(3, _NINE))):
            a, c = received[:, :, field, 0], received[:, :, field, 1]
            values = summed[:, :, part]
            plain, b, d = values[..., 0, :], values[..., 1 + field, :], values[..., 3 + field, :]
            pairs = (plain * a[:, :, None] + b + d * c[:, :, None]).sum(-1)
            width = moments.shape[-1]
            weights = own[:, :, None, field * width : (field + 1) * width]
            six.append(pairs + (moments[:, :, part] * weights).sum(-1))
        moved, bent = six
        bent = bent + own[..., -1:] * bent.new_tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        displacement = (moved * length[:, None, None]) @ torch.linalg.inv(lattices)
        present = mask.to(bent)[..., None]
        return Fields(displacement * present, _symmetric((bent * present).sum(1) / present.sum(1)))


class PairFeatures(NamedTuple):
    """Geometry of all pairs (i, j) of a cell, summed over the images of j.

    Attributes:
        pairs: (B, N, N, K) radial functions, for attention.
        radial: (B, K, N, N) the same, for sums over j.
        angular: (B, A, 9 N, N): radial functions times the three components of the direction and
            the six of its square, for sums over j.
    """

    pairs: Tensor
    radial: Tensor
    angular: Tensor

    def sum_radial(self, rows: Tensor) -> Tensor:
        """(B, N, K G): sums over j of each radial function times values (B, N, G, K) of j."""
        summed = self.radial @ rows.permute(0, 3, 1, 2).to(self.radial)
        return summed.permute(0, 2, 1, 3).flatten(2)

    def sum_angular(self, rows: Tensor) -> Tensor:
        """(B, N, 9, G, A): sums over j of vectors and tensors times values (B, N, G, A) of j."""
        summed = self.angular @ rows.permute(0, 3, 1, 2).to(self.angular)
        return summed.unflatten(2, (_NINE, -1)).permute(0, 3, 2, 4, 1)


class PairGeometry(nn.Module):
    """Features of all pairs of a cell's atoms, summed over the images among the neighbours."""

    centres: Tensor
    touching: Tensor

    def __init__(self, radial: int, angular: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.3, 2.7, radial), persistent=False)
        self.register_buffer("touching", torch.linspace(0.4, 2.2, radial), persistent=False)
        start = math.log(math.expm1(_FIRST_RADIUS))
        self.radii = nn.Parameter(torch.full((MAX_ATOMIC_NUMBER + 1,), start))
        self.mix = nn.Linear(2 * radial, angular, bias=False)

    def forward(
        self, atomic_numbers: Tensor, length: Tensor, neighbours: Neighbours
    ) -> PairFeatures:
        """Of B crystals with N atoms.

        Args:
            atomic_numbers: (B, N).
            length: (B,) (V/N)^(1/3) in Å.
            neighbours: in Å.
        """
        with torch.autocast(length.device.type, enabled=False):
            distances = neighbours.distances.clamp_min(1e-6)
            units = neighbours.vectors / distances[..., None]
            radii = softplus(self.radii)[atomic_numbers]
            batch, size = atomic_numbers.shape
            others = radii.gather(1, neighbours.index.flatten(1)).view(distances.shape)
            basis = torch.cat(
                [
                    _gaussians(distances / length[:, None, None], self.centres),
                    _gaussians(distances / (radii[:, :, None] + others), self.touching),
                ],
                dim=-1,
            )
            fade = (1 - (distances / neighbours.cutoff[..., None]).pow(4)).clamp_min(0).square()
            present = (atomic_numbers > 0)[:, :, None]
            basis = basis * (fade * present)[..., None]
            x, y, z = units.unbind(-1)
            nine = torch.stack([x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], dim=-2)
            # (B, N, 9 A, k): which vectors and tensors each neighbour adds.
            columns = nine[..., None, :] * self.mix(basis).mT[:, :, None]
            # Which atom each neighbour is, as a matrix: the sum over images is a product.
            which = one_hot(neighbours.index, size).to(columns)
            pairs = which.mT @ basis
            angular = (columns.flatten(2, 3) @ which).view(batch, size, _NINE, -1, size)
            return PairFeatures(
                pairs,
                pairs.permute(0, 3, 1, 2).contiguous(),
                angular.permute(0, 3, 2, 1, 4).reshape(batch, -1, _NINE * size, size),
            )


class Block(nn.Module):
    """One layer: attention, a convolution over pairs, moments, and a two-layer network."""

    def __init__(self, channels: int, heads: int, radial: int, angular: int) -> None:
        super().__init__()
        self.heads, self.radial, self.angular = heads, radial, angular
        moments = _PER_RADIAL * angular
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.bias = nn.Sequential(nn.Linear(radial, 32), nn.SiLU(), nn.Linear(32, heads))
        self.sender = nn.Linear(channels, _PER_RADIAL * radial)
        self.weights = nn.Linear(channels, moments)
        self.mix_moments = nn.Linear(moments, moments, bias=False)
        self.turn = nn.Linear(moments, moments, bias=False)
        self.combine = nn.Linear(channels + _PER_RADIAL * radial + 4 * moments, channels)
        self.second_norm = nn.LayerNorm(channels)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
        )

    def forward(
        self, atoms: Tensor, moments: Tensor, geometry: PairFeatures, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Atoms (B, N, C) and their moments (B, N, 9, M) after a layer.

        Args:
            atoms: (B, N, C).
            moments: (B, N, 9, M) vectors and tensors of each atom.
            geometry: of the pairs.
            hidden: (B, 1, 1, N) very negative on padding.
        """
        batch, size, channels = atoms.shape
        inner = self.norm(atoms)
        query, key, value = (
            x.view(batch, size, self.heads, -1).transpose(1, 2)
            for x in self.query_key_value(inner).chunk(3, -1)
        )
        bias = self.bias(geometry.pairs).permute(0, 3, 1, 2) + hidden
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query))
        attended = attended.transpose(1, 2).reshape(batch, size, channels)
        sent = self.sender(inner).view(batch, size, _PER_RADIAL, self.radial)
        weights = self.weights(inner).view(batch, size, _PER_RADIAL, self.angular)
        summed = geometry.sum_angular(weights).flatten(3)
        moments = moments + self.mix_moments(summed)
        inputs = [attended, geometry.sum_radial(sent).to(attended), self._invariants(moments)]
        atoms = atoms + self.combine(torch.cat(inputs, dim=-1))
        atoms = atoms + self.feed_forward(self.second_norm(atoms))
        return atoms, moments

    def _invariants(self, moments: Tensor) -> Tensor:
        """(B, N, 4 M): lengths and products of vectors and tensors, tamed by a root."""
        x, y, z, xx, yy, zz, xy, xz, yz = moments.unbind(2)
        vectors = moments[:, :, :3]
        squares = vectors.square().sum(2)
        products = (vectors * self.turn(vectors)).sum(2)
        norms = xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)
        bent = x * x * xx + y * y * yy + z * z * zz + 2 * (x * y * xy + x * z * xz + y * z * yz)
        stacked = torch.cat([squares, products, norms, bent], dim=-1)
        return stacked / (1 + stacked.abs()).sqrt()


def _gaussians(values: Tensor, centres: Tensor) -> Tensor:
    """(..., K), as wide as the centres are apart."""
    step = centres[1] - centres[0]
    return torch.exp(-((values[..., None] - centres) / step).square())


def _symmetric(six: Tensor) -> Tensor:
    """Matrices (..., 3, 3) from their six entries xx, yy, zz, xy, xz, yz."""
    xx, yy, zz, xy, xz, yz = six.unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=-1).unflatten(-1, (3, 3))
