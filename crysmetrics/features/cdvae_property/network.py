"""DimeNet++ on crystals, as CDVAE's property predictors have it.

Gasteiger et al., "Fast and Uncertainty-Aware Directional Message Passing for Non-Equilibrium
Molecules" (2020); the names of the weights are those of torch-geometric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysmetrics.features.cdvae_property.bases import angular_basis, envelope, radial_basis


@dataclass(frozen=True)
class Settings:
    """Sizes and bases of the network.

    Attributes:
        hidden_channels: width of messages.
        num_blocks: interactions.
        int_emb_size, basis_emb_size, out_emb_channels: widths inside a block.
        num_spherical, num_radial: angular orders, and radial functions for each.
        cutoff: Å.
        envelope_exponent: of the smooth cutoff.
        num_before_skip, num_after_skip, num_output_layers: numbers of layers.
        num_outputs: numbers of an atom, and of a crystal.
    """

    hidden_channels: int = 128
    num_blocks: int = 4
    int_emb_size: int = 64
    basis_emb_size: int = 8
    out_emb_channels: int = 256
    num_spherical: int = 7
    num_radial: int = 6
    cutoff: float = 7.0
    envelope_exponent: int = 5
    num_before_skip: int = 1
    num_after_skip: int = 2
    num_output_layers: int = 3
    num_outputs: int = 1


@dataclass(frozen=True)
class BondGraph:
    """Crystals with their bonds and pairs of adjoining bonds, as tensors.

    Attributes:
        atomic_numbers: (N,).
        crystal: (N,) index of each atom's crystal.
        num_atoms: (B,).
        source, target: (E,) atoms at either end of a bond.
        distances: (E,) in Å.
        incoming, bond: (T,) pairs k -> j, j -> i of bonds, by their indices, i and k not being
            images of one atom.
        cosines: (T,) of the angle between the vectors j -> k and i -> j.
    """

    atomic_numbers: Tensor
    crystal: Tensor
    num_atoms: Tensor
    source: Tensor
    target: Tensor
    distances: Tensor
    incoming: Tensor
    bond: Tensor
    cosines: Tensor


class _Residual(nn.Module):
    """Add two layers to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + silu(self.lin2(silu(self.lin1(x))))


class _Embedding(nn.Module):
    """Embed bonds by the elements at both ends and the distance."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        width = s.hidden_channels
        self.emb = nn.Embedding(95, width)
        self.lin_rbf, self.lin = nn.Linear(s.num_radial, width), nn.Linear(3 * width, width)

    def forward(self, graph: BondGraph, rbf: Tensor) -> Tensor:
        x = self.emb(graph.atomic_numbers)
        ends = [x[graph.target], x[graph.source], silu(self.lin_rbf(rbf))]
        return silu(self.lin(torch.cat(ends, dim=-1)))


class _Interaction(nn.Module):
    """Pass messages from the bonds that lead to a bond's first atom."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        width, inner, basis = s.hidden_channels, s.int_emb_size, s.basis_emb_size
        self.lin_rbf1 = nn.Linear(s.num_radial, basis, bias=False)
        self.lin_rbf2 = nn.Linear(basis, width, bias=False)
        self.lin_sbf1 = nn.Linear(s.num_spherical * s.num_radial, basis, bias=False)
        self.lin_sbf2 = nn.Linear(basis, inner, bias=False)
        self.lin_kj, self.lin_ji = nn.Linear(width, width), nn.Linear(width, width)
        self.lin_down = nn.Linear(width, inner, bias=False)
        self.lin_up = nn.Linear(inner, width, bias=False)
        self.layers_before_skip = nn.ModuleList(_Residual(width) for _ in range(s.num_before_skip))
        self.lin = nn.Linear(width, width)
        self.layers_after_skip = nn.ModuleList(_Residual(width) for _ in range(s.num_after_skip))

    def forward(
        self, x: Tensor, graph: BondGraph, rbf: Tensor, radial: Tensor, angular: Tensor
    ) -> Tensor:
        messages = silu(self.lin_kj(x)) * self.lin_rbf2(self.lin_rbf1(rbf))
        messages = silu(self.lin_down(messages))
        # The first layer on the product of both bases, summed over the radial one bond by bond:
        # there are ten times more pairs than bonds.
        weight = self.lin_sbf1.weight.view(-1, *radial.shape[1:])
        by_bond = torch.einsum("eln,bln->elb", radial, weight)
        pairs = torch.einsum("tlb,tl->tb", by_bond[graph.incoming], angular)
        passed = messages[graph.incoming] * self.lin_sbf2(pairs)
        gathered = torch.zeros_like(messages).index_add_(0, graph.bond, passed)
        h = silu(self.lin_ji(x)) + silu(self.lin_up(gathered))
        for layer in self.layers_before_skip:
            h = layer(h)
        h = silu(self.lin(h)) + x
        for layer in self.layers_after_skip:
            h = layer(h)
        return h


class _Output(nn.Module):
    """Sum bonds at each atom and read its numbers off."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        wide = s.out_emb_channels
        self.lin_rbf = nn.Linear(s.num_radial, s.hidden_channels, bias=False)
        self.lin_up = nn.Linear(s.hidden_channels, wide)
        self.lins = nn.ModuleList(nn.Linear(wide, wide) for _ in range(s.num_output_layers))
        self.lin = nn.Linear(wide, s.num_outputs, bias=False)

    def forward(self, x: Tensor, graph: BondGraph, rbf: Tensor) -> Tensor:
        atoms = x.new_zeros(len(graph.atomic_numbers), x.shape[1])
        atoms.index_add_(0, graph.target, self.lin_rbf(rbf) * x)
        atoms = self.lin_up(atoms)
        for layer in self.lins:
            atoms = silu(layer(atoms))
        found: Tensor = self.lin(atoms)
        return found


class DimeNetPlusPlus(nn.Module):
    """DimeNet++, its outputs averaged over the atoms of a crystal."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        s = self.settings = settings
        self.rbf = nn.ParameterDict({"freq": nn.Parameter(torch.arange(1.0, s.num_radial + 1))})
        with torch.no_grad():
            self.rbf["freq"].mul_(torch.pi)
        self.emb = _Embedding(s)
        self.output_blocks = nn.ModuleList(_Output(s) for _ in range(s.num_blocks + 1))
        self.interaction_blocks = nn.ModuleList(_Interaction(s) for _ in range(s.num_blocks))

    @classmethod
    def from_state(
        cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> DimeNetPlusPlus:
        """Build the network with the given weights, for inference.

        Args:
            settings: fields of `Settings`; others are left out.
            state: weights by torch-geometric's names, behind `encoder.`.

        Raises:
            ValueError, RuntimeError: if they do not fit.
        """
        known = {k: v for k, v in settings.items() if k in Settings.__dataclass_fields__}
        network = cls(Settings(**known))
        network.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items()})
        return network.eval().requires_grad_(False)

    def forward(self, graph: BondGraph) -> Tensor:
        """Compute the numbers of each crystal, (B, O)."""
        atoms = self.atoms(graph)
        total = atoms.new_zeros(len(graph.num_atoms), atoms.shape[1])
        return total.index_add_(0, graph.crystal, atoms) / graph.num_atoms[:, None]

    def atoms(self, graph: BondGraph) -> Tensor:
        """Compute the numbers of each atom, (N, O)."""
        s = self.settings
        x = graph.distances / s.cutoff
        rbf = envelope(x, s.envelope_exponent)[:, None] * torch.sin(self.rbf["freq"] * x[:, None])
        radial = radial_basis(
            graph.distances, s.cutoff, s.num_spherical, s.num_radial, s.envelope_exponent
        )
        angular = angular_basis(graph.cosines, s.num_spherical)
        messages = self.emb(graph, rbf)
        atoms = self.output_blocks[0](messages, graph, rbf)
        for interaction, output in zip(
            self.interaction_blocks, self.output_blocks[1:], strict=True
        ):
            messages = interaction(messages, graph, rbf, radial, angular)
            atoms = atoms + output(messages, graph, rbf)
        return atoms
