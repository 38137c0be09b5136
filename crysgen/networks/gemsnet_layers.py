"""Layers of GemsNet: edges and triplets of a periodic graph as dense blocks.

The graph has k edges γ at each atom, to its k nearest neighbours, so that everything of an edge is
an array (B, N, k, ...), and everything of a triplet, two edges γ and γ' of one atom, is
(B, N, k, k', ...). Nothing of that size is ever made but the cosines and their polynomials: a sum
over γ' of polynomials times features of γ' is a matrix product, as in GemNet's efficient bilinear
layer (Gasteiger et al., NeurIPS 2021, Appendix F), and the weights of the vector fields are made
such that it is one too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.neighbours import Neighbours

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
_SMALL = 0.1
"""Of the last weights: a new network hardly moves an atom."""


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
        """(B, N, k, C): features (B, N, C) of the atoms that the edges end in.

        A product with zeros and ones rather than an index, because its gradient is one as well,
        which on a GPU is faster than adding up by index, and always the same.
        """
        return (self.ends.to(atoms) @ atoms).unflatten(1, self.fade.shape[1:])

    def near(self, edges: Tensor) -> Tensor:
        """(B, N, k', C): features (B, N, k, C) of the edges that are γ' of triplets."""
        count = self.angular.shape[-1]
        return edges if count == edges.shape[2] else edges[:, :, :count]

    def sum_angular(self, right: Tensor) -> Tensor:
        """(B, N, k, S, C): sums over γ' of polynomials times features (B, N, k', C)."""
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
        """Of B crystals with N atoms.

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
    """(B, N, k): from 1 to 0 just before the cutoffs (B, N), with a slope of 0 there.

    Just before, so that a neighbour at the cutoff has exactly nothing: products of what rounding
    leaves end in denormal numbers, with which processors are many times slower.
    """
    ratio = (distances / cutoff[..., None]).square().square()
    return (1 - _MARGIN - ratio).clamp_min(0).square()


def _bumps(values: Tensor, centres: Tensor) -> Tensor:
    """(..., R): smooth bumps that overlap as Gaussians as wide as the centres are apart do.

    Gaussians would end in denormal numbers.
    """
    step = _REACH * (centres[1] - centres[0])
    rise = (1 - ((values[..., None] - centres) / step).square()).clamp_min(0)
    return rise * rise * rise


def _legendre(cosines: Tensor, weights: Tensor, count: int) -> Tensor:
    """(..., k, S, k') polynomials of degree 0 to S - 1 of cosines (..., k, k'), times weights.

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
        """(B, N, k, E) of atoms (B, N, C)."""
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
        """Atoms (B, N, C) and edges (B, N, k, E) after a layer; lengths are (B, N, k, L)."""
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


class FieldHead(nn.Module):
    """Weights of the vector fields, and the fields summed with them (Appendix A).

    Positions: y_i = Σ_γ w_γ (-e_γ/r_γ), here in Cartesian coordinates, -w_γ u_γ.

    Cell: a change of the cell ρ' = (1 + Y) ρ with a symmetric Y changes the length of the edge
    ρe = r u by r uᵀYu, and turns its direction by Yu - (uᵀYu) u. So, as tensors acting on the left,

        ∂ ln r/∂ρ = u uᵀ,    ∂ cos θ/∂ρ = κ(γ, γ') + κ(γ', γ),
        κ(γ, γ') = (u u'ᵀ + u' uᵀ)/2 - cos θ u uᵀ,

    κ being what turning u alone does. Both are the paper's λ but for the scale: ∂r = r ∂ ln r, and
    ∂θ = -∂ cos θ/ sin θ, which is 0/0 for edges in line, where a cell can't change θ. Γ2 has each
    pair in both orders, so ∂r'/∂ρ and the second κ come from the same two terms with γ and γ'
    exchanged, and with weights of their own. The sum over Γ2 of

        w¹_γγ' u uᵀ + w²_γγ' κ(γ, γ'),    w_γγ' = Σ_s P_s(cos θ) p_γs · q_γ'

    is then Σ_γ [(a_γ - u·x_γ) u uᵀ + (u x_γᵀ + x_γ uᵀ)/2], where a_γ = Σ_γ' w¹ and x_γ = Σ_γ' w² u'
    are matrix products, and no weight of a triplet is ever stored.

    Args:
        edge_channels: of an edge.
        hidden: of the head.
        lengths: of the functions of the distance.
        angular: S.
        rank: of p and q.
    """

    def __init__(
        self, edge_channels: int, hidden: int, lengths: int, angular: int, rank: int
    ) -> None:
        super().__init__()
        self.rank = rank
        self.norm = nn.LayerNorm(edge_channels)
        self.inner = nn.Linear(edge_channels, hidden)
        self.gate = nn.Linear(lengths, hidden)
        self.position = nn.Linear(hidden, 1)
        self.own = nn.Linear(hidden, 2 * angular * rank)
        self.other = nn.Linear(hidden, 2 * rank)
        nn.init.normal_(self.position.weight, std=_SMALL / math.sqrt(hidden))
        nn.init.zeros_(self.position.bias)

    def forward(self, edges: Tensor, lengths: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sums over the edges of each atom: vectors (B, N, 3) and tensors (B, N, 3, 3)."""
        weights, own, other = self.weights(edges, lengths)
        units, real = graph.units, graph.units.dtype
        count = units.shape[2]
        # Of γ': q for the lengths, and q times the direction for the angles.
        lengthen, turn = graph.near(other).unbind(3)
        turned = (turn[..., None] * graph.near(units)[:, :, :, None].to(turn)).flatten(3)
        summed = graph.sum_angular(torch.cat([lengthen, turned], dim=-1))
        a = (own[..., 0, :] * summed[..., : self.rank]).sum((-2, -1))
        directions = summed[..., self.rank :].unflatten(-1, (self.rank, 3))
        x = (own[..., 1, :, None] * directions).sum((-3, -2))
        with torch.autocast(units.device.type, enabled=False):
            w, a, x = weights.to(real), a.to(real), x.to(real)
            moved = -((w * graph.fade / math.sqrt(count))[..., None] * units).sum(2)
            # Σ_γ u vᵀ with v = (a - u·x) u + x, of which the symmetric part is asked for.
            v = (a - (units * x).sum(-1))[..., None] * units + x
            left = units * (graph.fade * (3 / count))[..., None]
            bent = (left[..., :, None] * v[..., None, :]).sum(2)
            return moved, (bent + bent.mT) / 2

    def weights(self, edges: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w (B, N, k), p (B, N, k, S, 2, R) and q (B, N, k, 2, R)."""
        hidden = silu(self.inner(self.norm(edges))) * self.gate(lengths)
        own = self.own(hidden).unflatten(-1, (-1, 2, self.rank))
        other = self.other(hidden).unflatten(-1, (2, self.rank))
        return self.position(hidden).squeeze(-1), own, other
