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
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from crysgen.matrices import determinants
from crysgen.networks.base import Estimate, Network
from crysgen.networks.embedding import AtomEmbedding
from crysgen.networks.neighbours import Neighbours, nearest_images, reduced_cells
from crysgen.networks.normalised import normalised
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
        widths = [atoms.shape[-1], atoms.shape[-1], pairs.shape[-1]]
        drop = (None,) * 3 if kept is None else kept[:, None].split(widths, -1)
        present = mask.to(atoms)
        normal = normalised(pairs, self.pair_norm.eps)
        left, right, bias = self._read(normal, present)
        # right is the pair (j, k) seen from j, so this is the triangle i, k, j.
        triangles = left @ right.mT
        pairs = pairs + self.close(triangles.flatten(1).mT).view_as(pairs)
        attended = self._attended(atoms, bias)
        around = self._around(normal, present).to(attended)
        atoms = atoms + _times(self.combine(torch.cat([attended, around], -1)), drop[0])
        atoms = atoms + _times(self.feed_forward(self.second_norm(atoms)), drop[1])
        return atoms, pairs + _times(
            self._pair_update(atoms, pairs, radial), drop[2], of_pairs=True
        )

    def _read(self, normal: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read off pairs (B, N, N, P) two sides of triangles, and what attention adds.

        Channels come first, as products of triangles want them, by one product without copies. What
        the norm multiplies and adds is in the weights.

        Returns:
            (T, B, N, N) sides (i, k) and (j, k); (B, H, N, N) for attention.
        """
        size, triangle = normal.shape[1], self.close.in_features
        weight = torch.cat([self.edges.weight, self.bias.weight]) * self.pair_norm.weight
        # Not added for attention, to which the same for all keys is nothing.
        constant = self.edges.bias + self.edges.weight @ self.pair_norm.bias
        found = (weight @ normal.flatten(0, 2).mT).view(-1, len(normal), size, size)
        left, right, bias = found.split([triangle, triangle, self.heads])
        of_left, of_right = constant.to(found)[:, None, None, None].chunk(2)
        share = present / present.sum(1, keepdim=True).sqrt()
        hidden = (present - 1)[:, None, None] * 1e4
        left = silu(left + of_left) * share[:, None].to(found)
        return left, silu(right + of_right), (bias.transpose(0, 1) + hidden).to(found)

    def _attended(self, atoms: Tensor, bias: Tensor) -> Tensor:
        """Attend (B, N, C) from all atoms to all, with something added for each pair."""
        batch, size, channels = atoms.shape
        query, key, value = (
            x.view(batch, size, self.heads, -1).transpose(1, 2)
            for x in self.query_key_value(self.norm(atoms)).chunk(3, -1)
        )
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query))
        return attended.transpose(1, 2).reshape(batch, size, channels)

    def _around(self, normal: Tensor, present: Tensor) -> Tensor:
        """Sum (B, N, P) the pairs of each atom, over the square root of their number."""
        root = present.sum(1)[:, None, None].sqrt()
        summed = (present.to(normal)[:, None, None] @ normal).squeeze(2)
        return summed * self.pair_norm.weight / root + self.pair_norm.bias * root

    def _pair_update(self, atoms: Tensor, pairs: Tensor, radial: Tensor) -> Tensor:
        """Compute what pairs (B, N, N, P) learn from their two atoms, distances and themselves."""
        of_pairs, of_radial = self.inner.weight.split([pairs.shape[-1], radial.shape[-1]], -1)
        # What is added to every pair is added to its first atom, of which there are fewer.
        constant = self.inner.bias + of_pairs @ self.second_pair_norm.bias
        constant = self.ends.bias + torch.cat([constant, torch.zeros_like(constant)])
        first, second = linear(self.third_norm(atoms), self.ends.weight, constant).chunk(2, -1)
        update = linear(
            torch.cat([normalised(pairs, self.second_pair_norm.eps), radial], -1),
            torch.cat([of_pairs * self.second_pair_norm.weight, of_radial], -1),
        )
        found: Tensor = self.outer(silu(update + first[:, :, None] + second[:, None]))
        return found


def _times(values: Tensor, factors: Tensor | None, of_pairs: bool = False) -> Tensor:
    if factors is None:
        return values
    return values * (factors[:, None] if of_pairs else factors).to(values)
