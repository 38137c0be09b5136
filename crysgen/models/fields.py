"""Heads that move atoms and bend cells: fields on a crystal from the features of a backbone.

Fields are sums of edge vectors, and of tensors made of them, with invariant weights, so that they
are equivariant by construction (GemsDiff, Section 4.1 and Appendix A).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.matrices import inverses
from crysgen.networks.base import Network, check_settings
from crysgen.networks.csp_backbone import CSPBackbone, CSPFeatures
from crysgen.networks.cspnet import GRAM
from crysgen.networks.gemsnet import GemsNet, GemsNetFeatures
from crysgen.networks.gemsnet_layers import Graph
from crysgen.networks.pairformer import PairFormer, PairFormerFeatures

_SMALL_PAIR = 0.03
_SMALL_STEP = 0.1
"""Of the last weights: a new model hardly moves anything."""


class Fields(NamedTuple):
    """How a crystal would be moved (GemsDiff, Eq. 7).

    Attributes:
        displacement: (B, N, 3) y^x, in fractional coordinates: the same under rotation,
            reflection and translation, turning with the axes under a unimodular change of cell.
            Zero on padding.
        strain: (B, 3, 3) y^ρ - 1, a symmetric tensor of Cartesian space: turning with a rotation,
            the same under translation and a unimodular change of cell.
    """

    displacement: Tensor
    strain: Tensor


def build_fields(
    network: Network, settings: Mapping[str, Any]
) -> PairFields | EdgeFields | RowFields:
    """Build the head that suits a backbone, with new weights.

    Args:
        network: the backbone.
        settings: keyword arguments of the head.

    Raises:
        ValueError: for settings that can't be, or a backbone without such a head.
    """
    for backbone, head in (
        (PairFormer, PairFields),
        (GemsNet, EdgeFields),
        (CSPBackbone, RowFields),
    ):
        if isinstance(network, backbone):
            check_settings(head, settings)
            return head(network, **settings)  # type: ignore[arg-type]
    raise ValueError(f"there are no fields over a {type(network).__name__}")


class PairFields(nn.Module):
    """Fields of PairFormer: directions to neighbours and of lattice vectors, weighted by pairs.

    Args:
        network: the backbone.
    """

    def __init__(self, network: PairFormer) -> None:
        super().__init__()
        channels = network.channels
        self.pair_norm = nn.LayerNorm(network.pair_channels)
        self.last = nn.Linear(network.pair_channels, 2 * 2 * network.radial)
        self.volume = nn.Linear(channels, 1)
        self.late = nn.Linear(channels, channels)
        # Without a constant: a vector at the edge of the set must count for nothing.
        self.coefficients = nn.Linear(channels, 1, bias=False)
        for layer in (self.last, self.volume, self.coefficients):
            nn.init.normal_(layer.weight, std=_SMALL_PAIR / math.sqrt(layer.in_features))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, features: PairFormerFeatures, lattices: Tensor, mask: Tensor) -> Fields:
        """Return the fields on B crystals.

        Args:
            features: of the backbone.
            lattices: (B, 3, 3) rows in Å, as the backbone saw them.
            mask: (B, N) where atoms are.
        """
        counts, length, basis = mask.sum(1), features.length, features.basis
        present = mask.to(lattices)[..., None]
        context = (features.nodes * present).sum(1) / counts[:, None]
        with torch.autocast(lattices.device.type, enabled=False):
            coefficients = self.last(self.pair_norm(features.pairs.to(length)))
            moved, bent = basis.sums(coefficients).unbind(-1)
            shift = (moved[..., None] * basis.units).sum(2) * length[:, None, None]
            displacement = (shift @ inverses(lattices)) * present
            weighted = (basis.units * bent[..., None]).flatten(1, 2).mT
            strain = weighted @ basis.units.flatten(1, 2) / counts[:, None, None]
            strain = strain + self._of_lattice(features, context.to(length))
            one = torch.eye(3, dtype=length.dtype, device=length.device)
            strain = strain + self.volume(context.to(length))[..., None] * one
        return Fields(displacement, (strain + strain.mT) / 2)

    def _of_lattice(self, features: PairFormerFeatures, context: Tensor) -> Tensor:
        """Sum Σ_v c_v v̂ v̂ᵀ (B, 3, 3) over lattice vectors, given the crystal's state (B, C)."""
        each, units = features.vectors, features.vector_units
        c = self.coefficients(each * torch.tanh(self.late(context))[:, None] + each)
        return (units * c).mT @ units / units.shape[1] ** 0.5


class RowFields(nn.Module):
    """Fields of CSPNet: lattice vectors with invariant weights (CrysLDM, Eq. 15, for rows).

    In fractional coordinates the weights of positions are the displacement itself.

    Args:
        network: the backbone.
    """

    def __init__(self, network: CSPBackbone) -> None:
        super().__init__()
        channels = network.channels
        self.inner = nn.Linear(channels, channels)
        self.positions = nn.Linear(channels, 3)
        self.pooled = nn.Linear(channels, channels)
        self.cells = nn.Linear(channels, 1 + len(GRAM))
        for layer in (self.positions, self.cells):
            nn.init.normal_(layer.weight, std=_SMALL_STEP / math.sqrt(channels))
            nn.init.zeros_(layer.bias)

    def forward(self, features: CSPFeatures, lattices: Tensor, mask: Tensor) -> Fields:
        """Return the fields on B crystals.

        Args:
            features: of the backbone.
            lattices: (B, 3, 3) rows in Å, as the backbone saw them.
            mask: (B, N) where atoms are.
        """
        length, present = features.length, mask.to(lattices)[..., None]
        counts = mask.sum(1).clamp_min(1).to(length)
        moved = self.positions(silu(self.inner(features.nodes)))
        context = (features.nodes * present.to(features.nodes)).sum(1) / counts[:, None]
        bent = self.cells(silu(self.pooled(context)))
        with torch.autocast(lattices.device.type, enabled=False):
            # In units of (V/N)^(1/3), as the others' are, over an edge of the cell.
            displacement = moved.to(length) * counts.pow(-1 / 3)[:, None, None] * present
            weights = bent.to(length)
            cells = lattices.to(length)
            units = cells / cells.norm(dim=-1, keepdim=True)
            one = torch.eye(3, dtype=length.dtype, device=length.device)
            strain = weights[:, 0, None, None] * one
            for k, (i, j) in enumerate(GRAM, start=1):
                both = units[:, i, :, None] * units[:, j, None, :]
                strain = strain + weights[:, k, None, None] * (both + both.mT) / 2
        return Fields(displacement, strain)


class EdgeFields(nn.Module):
    """Fields of GemsNet: edges and triplets, before and after each layer of the decoder.

    Args:
        network: the backbone.
        hidden: width of each head.
        rank: of the weights of triplets.
    """

    def __init__(self, network: GemsNet, hidden: int = 32, rank: int = 4) -> None:
        super().__init__()
        sizes = (network.edge_channels, hidden, network.lengths, network.angular, rank)
        self.heads = nn.ModuleList(TripletFields(*sizes) for _ in range(network.layers + 1))

    def forward(self, features: GemsNetFeatures, lattices: Tensor, mask: Tensor) -> Fields:
        """Return the fields on B crystals.

        Args:
            features: of the backbone.
            lattices: (B, 3, 3) rows in Å, as the backbone saw them.
            mask: (B, N) where atoms are.
        """
        length = features.length
        inverse = inverses(lattices.to(length))
        counts = mask.sum(1).clamp_min(1).to(length)
        fields = [
            head(edges, features.lengths, features.graph)
            for head, edges in zip(self.heads, features.states, strict=True)
        ]
        moved = torch.stack([vectors for vectors, _ in fields]).sum(0)
        bent = torch.stack([tensors for _, tensors in fields]).sum((0, 2))
        # In units of (V/N)^(1/3), so that a weight means the same in a cell of any size.
        to_fractional = length[:, None, None] * inverse
        displacement = (moved[..., None] * to_fractional[:, None]).sum(2)
        return Fields(displacement, bent / counts[:, None, None])


class TripletFields(nn.Module):
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
        nn.init.normal_(self.position.weight, std=_SMALL_STEP / math.sqrt(hidden))
        nn.init.zeros_(self.position.bias)

    def forward(self, edges: Tensor, lengths: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sum over the edges of each atom: vectors (B, N, 3) and tensors (B, N, 3, 3)."""
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
        """Compute w (B, N, k), p (B, N, k, S, 2, R) and q (B, N, k, 2, R)."""
        hidden = silu(self.inner(self.norm(edges))) * self.gate(lengths)
        own = self.own(hidden).unflatten(-1, (-1, 2, self.rank))
        other = self.other(hidden).unflatten(-1, (2, self.rank))
        return self.position(hidden).squeeze(-1), own, other
