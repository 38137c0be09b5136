"""Layers of GemsNet: edges and triplets of a periodic graph as dense blocks.

The graph has k edges γ at each atom, to its k nearest neighbours, so that everything of an edge is
an array (B, N, k, ...), and everything of a triplet, two edges γ and γ' of one atom, is
(B, N, k, k', ...). Nothing of that size is ever made but the cosines and their polynomials: a sum
over γ' of polynomials times features of γ' is a matrix product, as in GemNet's efficient bilinear
layer (Gasteiger et al., NeurIPS 2021, Appendix F).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.networks.neighbours import Neighbours

_SOFTENING = 1e-3
"""Directions fade below this share of (V/N)^(1/3), where two atoms are in one place."""
_DISTANCES = (0.15, 12.0)
"""Å: range of the absolute distances, on a logarithmic scale."""
_RELATIVE = (0.2, 2.8)
"""Range of the distances divided by (V/N)^(1/3)."""
_MARGIN = 1e-3
"""How long before the cutoff an edge has faded."""
_REACH = 2.0
"""How far a bump of the radial basis reaches, in distances between centres."""


class Graph(NamedTuple):
    """Geometry of the edges of B crystals; invariant but for the directions.

    Attributes:
        units: (B, N, k, 3) directions u of the edges; shorter than 1 where two atoms touch.
        fade: (B, N, k) weights of the edges: from 1 nearby to 0 at the first neighbour left out,
            and 0 on padding. Equal neighbours, of which some are left out, have weight 0, so that
            it does not matter which.
        radial: (B, N, k, R) functions of the distance.
        angular: (B, N, k S, k') normalised Legendre polynomials of degree 0 to S - 1 of the cosine
            of the angle between each edge γ and each γ' among the k' nearest, times the weight of
            γ'; zero where γ' is γ.
        ends: (B, N k, N) which atom each edge ends in, as rows with a single 1.
    """

    units: Tensor
    fade: Tensor
    radial: Tensor
    angular: Tensor
    ends: Tensor

    def at_ends(self, atoms: Tensor) -> Tensor:
        """Gather (B, N, k, C), the features (B, N, C) of the atoms that the edges end in.

        A product with zeros and ones rather than an index, because its gradient is one as well,
        which on a GPU is faster than adding up by index, and always the same.
        """
        return (self.ends.to(atoms) @ atoms).unflatten(1, self.fade.shape[1:])

    def near(self, edges: Tensor) -> Tensor:
        """Select (B, N, k', C), the features (B, N, k, C) of the edges that are γ' of triplets."""
        count = self.angular.shape[-1]
        return edges if count == edges.shape[2] else edges[:, :, :count]

    def sum_angular(self, right: Tensor) -> Tensor:
        """Sum polynomials times features (B, N, k', C) over γ' to (B, N, k, S, C)."""
        summed = self.angular.to(right) @ right
        return summed.unflatten(2, (self.fade.shape[2], -1))


class Geometry(nn.Module):
    """Neighbour lists as graphs.

    Args:
        radial: functions of the absolute distance, half as many of the relative one.
        angular: S, Legendre polynomials.
        triplet_k: k'.
    """

    centres: Tensor
    relative: Tensor

    def __init__(self, radial: int, angular: int, triplet_k: int) -> None:
        super().__init__()
        first, last = (math.log(d) for d in _DISTANCES)
        self.register_buffer("centres", torch.linspace(first, last, radial), persistent=False)
        self.register_buffer("relative", torch.linspace(*_RELATIVE, radial // 2), persistent=False)
        self.angular, self.triplet_k = angular, triplet_k
        self.size = radial + radial // 2

    def forward(self, mask: Tensor, length: Tensor, neighbours: Neighbours) -> Graph:
        """Describe the edges of B crystals with N atoms.

        Args:
            mask: (B, N).
            length: (B,) (V/N)^(1/3) in Å.
            neighbours: in Å.
        """
        device = length.device.type
        mixed = torch.is_autocast_enabled(device)
        features = torch.get_autocast_dtype(device) if mixed else length.dtype
        with torch.autocast(device, enabled=False):
            vectors, cutoff = neighbours.vectors.to(length), neighbours.cutoff.to(length)
            scale = length[:, None, None]
            squares = vectors.square().sum(-1)
            distances = (squares + (_SOFTENING * scale).square()).sqrt()
            units = vectors / distances[..., None]
            fade = _fade(distances, cutoff) * mask[..., None]
            near = min(self.triplet_k, distances.shape[-1])
            nearest, near_fade = units[:, :, :near], fade[:, :, :near]
            if near < distances.shape[-1]:
                near_fade = _fade(distances[:, :, :near], distances[:, :, near]) * mask[..., None]
            first, last = self.centres[0], self.centres[-1]
            logarithms = torch.clamp(distances.log(), first, last)
            radial = torch.cat(
                [
                    _bumps(logarithms, self.centres),
                    _bumps(distances / scale, self.relative),
                ],
                dim=-1,
            )
            # Not a matrix product, which a GPU would make of numbers cut to ten bits.
            pairs = zip(units.unbind(-1), nearest.unbind(-1), strict=True)
            cosines = torch.stack([u[..., None] * v[:, :, None] for u, v in pairs]).sum(0)
            others = 1 - torch.eye(*cosines.shape[-2:], dtype=cosines.dtype, device=cosines.device)
            weights = others * near_fade[:, :, None] / math.sqrt(near)
            angular = _legendre(cosines, weights, self.angular).flatten(2, 3)
            atoms = torch.arange(mask.shape[1], device=mask.device)
            ends = neighbours.index.flatten(1)[..., None] == atoms
            return Graph(units, fade, radial.to(features), angular.to(features), ends.to(features))


def _fade(distances: Tensor, cutoff: Tensor) -> Tensor:
    """Compute weights (B, N, k) that fall from 1 to 0 just before the cutoffs (B, N), smoothly.

    Just before, so that a neighbour at the cutoff has exactly nothing: products of what rounding
    leaves end in denormal numbers, with which processors are many times slower.
    """
    ratio = (distances / cutoff[..., None]).square().square()
    return (1 - _MARGIN - ratio).clamp_min(0).square()


def _bumps(values: Tensor, centres: Tensor) -> Tensor:
    """Compute smooth bumps (..., R) that overlap like Gaussians as wide as their spacing.

    Gaussians would end in denormal numbers.
    """
    step = _REACH * (centres[1] - centres[0])
    rise = (1 - ((values[..., None] - centres) / step).square()).clamp_min(0)
    return rise * rise * rise


def _legendre(cosines: Tensor, weights: Tensor, count: int) -> Tensor:
    """Compute polynomials (..., k, S, k') of degree 0 to S - 1 of cosines (..., k, k'), weighted.

    Normalised to a mean square of 1 over the sphere.
    """
    before, now = torch.zeros_like(cosines), torch.ones_like(cosines)
    result = []
    for degree in range(count):
        result.append(now * (weights * math.sqrt(2 * degree + 1)))
        step = (2 * degree + 1) * cosines * now - degree * before
        before, now = now, step / (degree + 1)
    return torch.stack(result, dim=-2)


class EdgeEmbedding(nn.Module):
    """First features of the edges, from their atoms and lengths."""

    def __init__(self, channels: int, edge_channels: int, radial: int) -> None:
        super().__init__()
        self.start = nn.Linear(channels, edge_channels)
        self.end = nn.Linear(channels, edge_channels, bias=False)
        self.length = nn.Linear(radial, edge_channels, bias=False)
        self.out = nn.Linear(edge_channels, edge_channels)

    def forward(self, atoms: Tensor, graph: Graph) -> Tensor:
        """Embed edges as (B, N, k, E), from atoms (B, N, C)."""
        ends = graph.at_ends(self.end(atoms))
        return self.out(silu(self.start(atoms)[:, :, None] + ends + self.length(graph.radial)))


class Interaction(nn.Module):
    """One layer: edges learn from triplets and atoms, then atoms from edges.

    Args:
        channels: of an atom.
        edge_channels: of an edge.
        triplet_channels: of an edge as the other edge of a triplet.
        lengths: of the shared low-dimensional functions of the distance.
        angular: S.
        last: whether only the edges are wanted.
    """

    def __init__(
        self,
        channels: int,
        edge_channels: int,
        triplet_channels: int,
        lengths: int,
        angular: int,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(edge_channels)
        self.inner = nn.Linear(edge_channels, edge_channels)
        self.down = nn.Linear(edge_channels, triplet_channels)
        self.down_gate = nn.Linear(lengths, triplet_channels)
        self.up = nn.Linear(angular * triplet_channels, edge_channels, bias=False)
        self.up_gate = nn.Linear(lengths, edge_channels)
        self.atom_norm = nn.LayerNorm(channels)
        self.start = nn.Linear(channels, edge_channels, bias=False)
        self.end = nn.Linear(channels, edge_channels, bias=False)
        self.out = nn.Linear(edge_channels, edge_channels)
        self.last = last
        if last:
            return
        self.edge_gate = nn.Linear(lengths, edge_channels)
        self.gather = nn.Linear(edge_channels, 2 * channels, bias=False)
        self.atom_inner = nn.Linear(channels, 2 * channels)
        self.atom_out = nn.Linear(2 * channels, channels)

    def forward(
        self, atoms: Tensor, edges: Tensor, lengths: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """Update atoms (B, N, C) and edges (B, N, k, E); lengths are (B, N, k, L)."""
        normal = self.norm(edges)
        sent = silu(self.down(graph.near(normal))) * self.down_gate(graph.near(lengths))
        triplets = self.up(graph.sum_angular(sent).flatten(3)) * self.up_gate(lengths)
        features = self.atom_norm(atoms)
        inner = (
            self.inner(normal)
            + triplets
            + self.start(features)[:, :, None]
            + graph.at_ends(self.end(features))
        )
        edges = edges + self.out(silu(inner))
        if self.last:
            return atoms, edges
        weights = graph.fade / math.sqrt(graph.fade.shape[-1])
        gates = self.edge_gate(lengths) * weights[..., None].to(lengths)
        summed = self.gather((edges * gates).sum(2))
        atoms = atoms + self.atom_out(silu(self.atom_inner(features) + summed))
        return atoms, edges
