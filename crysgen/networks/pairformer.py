"""PairFormer: features of all pairs of a cell's atoms, with triangles, and attention between atoms.

The fast backbone. All images of a neighbour are summed into one feature vector of the pair, so
that a layer costs N² pairs and N³ cheap products of a cell instead of 32 N edges and their
triplets. Pairs learn from the triangles they are in, (i, k) and (k, j) for every k, as dense matrix
products; atoms learn from pairs through attention.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from crysgen.matrices import determinants
from crysgen.networks.base import Estimate, Network
from crysgen.networks.embedding import AtomEmbedding
from crysgen.networks.fused import gated, normalised, triangle_sides
from crysgen.networks.neighbours import Neighbours, nearest_images, reduced_cells
from crysgen.networks.pair_geometry import LatticeGeometry, PairBasis, PairGeometry


class PairNeighbours(NamedTuple):
    """Neighbour lists that PairFormer reads.

    Attributes:
        atoms: neighbours of each atom.
        lattice: of a single atom in each cell: the shortest lattice vectors.
    """

    atoms: Neighbours
    lattice: Neighbours


class PairFormerFeatures(NamedTuple):
    """Features from PairFormer; see `Features`.

    Attributes:
        nodes: (B, N, C) of atoms.
        pairs: (B, N, N, P) of pairs of atoms, all their images together.
        basis: radial functions of neighbours and pairs.
        vectors: (B, m, C) of the shortest vectors of the lattice, fading to zero at the cutoff.
        vector_units: (B, m, 3) their directions.
        length: (B,) (V/N)^(1/3) in Å.
    """

    nodes: Tensor
    pairs: Tensor
    basis: PairBasis
    vectors: Tensor
    vector_units: Tensor
    length: Tensor

    @property
    def edges(self) -> Tensor:
        """(B, N, k, P + K): of a neighbour's pair, and radial functions of its own distance."""
        of_pairs = (self.basis.which @ self.pairs.to(self.basis.which)) * self.basis.fade[..., None]
        return torch.cat([of_pairs, self.basis.basis], -1)

    @property
    def units(self) -> Tensor:
        """(B, N, k, 3) directions to the neighbours."""
        return self.basis.units


class PairFormer(Network):
    """Pairs, triangles and attention; see the module.

    Args:
        channels: width of an atom's features.
        pair_channels: width of a pair's.
        triangle_channels: width of the products of pairs.
        layers: how many.
        heads: of attention; divides `channels`.
        radial: basis functions of each of the two distances.
        k: neighbours of each atom that are seen.
        lattice_k: lattice vectors that are seen.
        self_conditioning: whether `forward` can be told an estimate of the clean crystal.
    """

    can_drop = True

    def __init__(
        self,
        channels: int = 128,
        pair_channels: int = 64,
        triangle_channels: int = 32,
        layers: int = 4,
        heads: int = 8,
        radial: int = 20,
        k: int = 40,
        lattice_k: int = 26,
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels can't be divided among {heads} heads")
        self.k, self.lattice_k, self.radial = k, lattice_k, radial
        self.channels, self.pair_channels = channels, pair_channels
        self.edge_channels = pair_channels + 2 * radial
        self.embedding = AtomEmbedding(channels)
        self.scale = nn.Linear(1, channels)
        self.geometry = PairGeometry(radial)
        self.lattice = LatticeGeometry(channels, radial)
        self.first = nn.Linear(2 * radial, pair_channels)
        self.self_pair = nn.Parameter(torch.zeros(pair_channels))
        self.blocks = nn.ModuleList(
            Block(channels, pair_channels, triangle_channels, heads, 2 * radial)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.droppable = (layers, 2 * channels + pair_channels)
        self.estimated = (
            nn.Linear(2 * radial, pair_channels, bias=False) if self_conditioning else None
        )

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the parts by `torch.compile`: the layers are one program, made once."""
        for part in (self.geometry, self.lattice, *self.blocks):
            part.compile(*arguments, **options)

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> PairNeighbours:
        """Search the neighbours of the atoms, and the shortest vectors of the lattice."""
        origin = torch.zeros_like(frac_coords[:, :1])
        there = torch.ones_like(mask[:, :1])
        reduced = reduced_cells(lattices)
        return PairNeighbours(
            nearest_images(frac_coords, lattices, mask, self.k, reduced),
            nearest_images(origin, lattices, there, self.lattice_k, reduced),
        )

    def forward(
        self,
        atomic_numbers: Tensor,
        lattices: Tensor,
        step: Tensor,
        neighbours: PairNeighbours,
        estimate: Estimate | None = None,
        kept: Tensor | None = None,
        embedded: Tensor | None = None,
    ) -> PairFormerFeatures:
        """See `Network.forward`.

        Args:
            atomic_numbers: (B, N).
            lattices: (B, 3, 3) rows in Å.
            step: (B,).
            neighbours: of `search`.
            estimate: of the clean crystals.
            kept: (B, layers, channels) factors of the updates of each layer, for dropout.
            embedded: (B, N, C) atoms' first features; by default those of element and step.
        """
        mask = atomic_numbers > 0
        counts = mask.sum(1)
        present = mask.to(lattices)[..., None]
        with torch.autocast(lattices.device.type, enabled=False):
            size = determinants(lattices).abs().pow(1 / 3)
            length = size / counts.pow(1 / 3)
            geometry = self.geometry(atomic_numbers, length, neighbours.atoms)
            own = neighbours.lattice
        atoms = self.embedding(atomic_numbers, step) if embedded is None else embedded
        atoms = atoms + self.scale(length.log()[:, None, None] - 1)
        context = (atoms * present).sum(1) / counts[:, None]
        with torch.autocast(lattices.device.type, enabled=False):
            about, each, units = self.lattice(
                size, own.vectors[:, 0], own.cutoff[:, 0], context.to(size)
            )
        atoms = atoms + about[:, None]
        eye = torch.eye(mask.shape[1], device=mask.device, dtype=atoms.dtype)[..., None]
        pairs = self.first(geometry.pairs)
        # Pairs stay in the precision of products: what they cost is the memory they move.
        pairs = pairs + (eye * self.self_pair).to(pairs)
        radial = geometry.pairs.to(pairs)
        if self.estimated is not None and estimate is not None:
            with torch.autocast(lattices.device.type, enabled=False):
                seen = self.geometry.estimated(
                    atomic_numbers, length, neighbours.atoms, geometry, lattices, estimate
                )
            pairs = pairs + self.estimated(seen)
        for number, block in enumerate(self.blocks):
            left = None if kept is None else kept[:, number]
            atoms, pairs = block(atoms, pairs, radial, mask, left)
        atoms = self.norm(atoms)
        return PairFormerFeatures(atoms, pairs, geometry, each, units, length)


class Block(nn.Module):
    """One layer: triangles, attention, and networks for atoms and pairs."""

    def __init__(
        self, channels: int, pair_channels: int, triangle: int, heads: int, radial: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.pair_norm = nn.LayerNorm(pair_channels)
        self.edges = nn.Linear(pair_channels, 2 * triangle)
        self.close = nn.Linear(triangle, pair_channels)
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.bias = nn.Linear(pair_channels, heads, bias=False)
        self.combine = nn.Linear(channels + pair_channels, channels)
        self.second_norm = nn.LayerNorm(channels)
        self.third_norm = nn.LayerNorm(channels)
        self.ends = nn.Linear(channels, 2 * 2 * pair_channels)
        self.second_pair_norm = nn.LayerNorm(pair_channels)
        self.inner = nn.Linear(pair_channels + radial, 2 * pair_channels)
        self.outer = nn.Linear(2 * pair_channels, pair_channels)
        shrink = nn.Linear(3 * channels, channels)
        self.feed_forward = nn.Sequential(nn.Linear(channels, 3 * channels), nn.SiLU(), shrink)
        for layer in (self.close, self.combine, shrink, self.outer):
            nn.init.normal_(layer.weight, std=0.3 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        atoms: Tensor,
        pairs: Tensor,
        radial: Tensor,
        mask: Tensor,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update atoms (B, N, C) and pairs (B, N, N, P).

        Args:
            atoms: (B, N, C).
            pairs: (B, N, N, P).
            radial: (B, N, N, K) geometry of the pairs.
            mask: (B, N) where atoms are.
            kept: (B, 2 C + P) factors of what the layer adds, for dropout.
        """
        batch, size, channels = atoms.shape
        width = pairs.shape[-1]
        counts = mask.sum(1).to(atoms)[:, None, None]
        present = mask.to(atoms)
        inner = normalised(pairs, self.pair_norm.eps)
        # All that is read off pairs at once, channels first, as triangles want them. What the norm
        # multiplies and adds is in the weights; the same for all keys, it is nothing to attention.
        weight = torch.cat([self.edges.weight, self.bias.weight]) * self.pair_norm.weight
        constant = self.edges.bias + self.edges.weight @ self.pair_norm.bias
        found = (weight @ inner.flatten(0, 2).mT).view(-1, batch, size, size)
        factors = present / counts[:, 0].sqrt()
        left, right, bias = triangle_sides(found, constant, factors, (present - 1) * 1e4)
        # right is the pair (j, k) seen from j, so this is the triangle i, k, j.
        triangles = left @ right.mT
        pairs = pairs + self.close(triangles.flatten(1).mT).view_as(pairs)
        outer = self.norm(atoms)
        query, key, value = (
            x.view(batch, size, self.heads, -1).transpose(1, 2)
            for x in self.query_key_value(outer).chunk(3, -1)
        )
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query))
        attended = attended.transpose(1, 2).reshape(batch, size, channels)
        summed = (present.to(inner)[:, None, None] @ inner).squeeze(2)
        around = summed * self.pair_norm.weight / counts.sqrt()
        around = around + self.pair_norm.bias * counts.sqrt()
        widths = [channels, channels, width]
        drop = (None,) * 3 if kept is None else kept[:, None].split(widths, -1)
        told = self.combine(torch.cat([attended, around.to(attended)], -1))
        atoms = atoms + _times(told, drop[0])
        atoms = atoms + _times(self.feed_forward(self.second_norm(atoms)), drop[1])
        # What is added to every pair is added to the first atom of each, of which there are fewer.
        of_pairs, of_radial = self.inner.weight.split([width, radial.shape[-1]], -1)
        constant = self.inner.bias + of_pairs @ self.second_pair_norm.bias
        ends = linear(
            self.third_norm(atoms),
            self.ends.weight,
            self.ends.bias + torch.cat([constant, torch.zeros_like(constant)]),
        )
        update = linear(
            torch.cat([normalised(pairs, self.second_pair_norm.eps), radial], -1),
            torch.cat([of_pairs * self.second_pair_norm.weight, of_radial], -1),
        )
        update = gated(update, ends)
        factor = None if drop[2] is None else drop[2][:, None]
        return atoms, pairs + _times(self.outer(update), factor)


def _times(values: Tensor, factors: Tensor | None) -> Tensor:
    return values if factors is None else values * factors.to(values)
