"""GemsNet: the network of GemsDiff's Section 4.1 and Appendix A.

GemNet-type message passing between the edges of a periodic graph of nearest neighbours, through
triplets: an edge learns from the other edges of its atom by their lengths and the angles between
them. An encoder makes features of the atoms, a decoder, a second network of the same kind that
starts from those, makes features of the edges. Klipfel et al., IJCAI 2023, describe it as a
regression model. All it knows of a crystal is invariant.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from crysgen.matrices import determinants
from crysgen.networks.base import Network
from crysgen.networks.embedding import AtomEmbedding
from crysgen.networks.gemsnet_layers import (
    EdgeEmbedding,
    Geometry,
    Graph,
    Interaction,
)
from crysgen.networks.neighbours import Neighbours


class GemsNetFeatures(NamedTuple):
    """Features from GemsNet; see `Features`.

    Attributes:
        nodes: (B, N, C) of atoms.
        states: edges' features (B, N, k, E) before and after each layer of the decoder.
        lengths: (B, N, k, L) functions of the distance that layers share.
        graph: geometry of the edges.
        length: (B,) (V/N)^(1/3) in Å.
    """

    nodes: Tensor
    states: tuple[Tensor, ...]
    lengths: Tensor
    graph: Graph
    length: Tensor

    @property
    def edges(self) -> Tensor:
        """(B, N, k, E) after the last layer."""
        last = self.states[-1]
        return last * self.graph.fade[..., None].to(last)

    @property
    def units(self) -> Tensor:
        """(B, N, k, 3) directions to the neighbours."""
        return self.graph.units


class GemsNet(Network):
    """Triplet message passing; see the module.

    Args:
        channels: width of an atom's features.
        edge_channels: width of an edge's features.
        triplet_channels: width of the message from an edge to the other edges of its atom.
        layers: of the encoder, and as many of the decoder.
        radial: basis functions of the distance in Å; half as many of that relative to (V/N)^(1/3).
        lengths: low-dimensional functions of the distance, which all layers share.
        angular: Legendre polynomials of the angle.
        k: neighbours of each atom: its edges.
        triplet_k: the nearest of them that make triplets with all; all of them if it is k.
        encoder: False is the ablation "w/o encoder" of Table 4.
        time_embedding: False is the ablation "w/o temporal embedding".
    """

    def __init__(
        self,
        channels: int = 128,
        edge_channels: int = 128,
        triplet_channels: int = 32,
        layers: int = 3,
        radial: int = 32,
        lengths: int = 16,
        angular: int = 6,
        k: int = 32,
        triplet_k: int = 32,
        encoder: bool = True,
        time_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.k, self.layers, self.lengths, self.angular = k, layers, lengths, angular
        self.channels, self.edge_channels = channels, edge_channels
        self.embedding = AtomEmbedding(channels, step=time_embedding)
        self.density = nn.Linear(1, channels)
        self.geometry = Geometry(radial, angular, triplet_k)
        sizes = (channels, edge_channels, triplet_channels, lengths, angular)
        shape = (*sizes, layers, self.geometry.size)
        self.encoder = Messages(*shape, atoms=True) if encoder else None
        self.decoder = Messages(*shape, atoms=False)

    def forward(
        self,
        atomic_numbers: Tensor,
        lattices: Tensor,
        step: Tensor,
        neighbours: Neighbours,
        embedded: Tensor | None = None,
    ) -> GemsNetFeatures:
        """See `Network.forward`; `embedded` (B, N, C) stands for what is embedded of the atoms."""
        mask = atomic_numbers > 0
        cells = lattices.to(self.density.weight.dtype)
        counts = mask.sum(1).clamp_min(1).to(cells)
        length = (determinants(cells).abs() / counts).pow(1 / 3)
        graph = self.geometry(mask, length, neighbours)
        atoms = embedded
        if atoms is None:
            atoms = self.embedding(atomic_numbers, step.to(cells))
        atoms = atoms + self.density(length.log()[:, None, None] - 1)
        if self.encoder is not None:
            atoms, _, _ = self.encoder(atoms, graph)
        atoms, states, lengths = self.decoder(atoms, graph)
        return GemsNetFeatures(atoms, tuple(states), lengths, graph, length)


class Messages(nn.Module):
    """The encoder, or the decoder before its heads, of which only the edges are wanted."""

    def __init__(
        self,
        channels: int,
        edge_channels: int,
        triplet_channels: int,
        lengths: int,
        angular: int,
        layers: int,
        radial: int,
        atoms: bool,
    ) -> None:
        super().__init__()
        self.lengths = nn.Linear(radial, lengths)
        self.edges = EdgeEmbedding(channels, edge_channels, radial)
        self.layers = nn.ModuleList(
            Interaction(
                channels,
                edge_channels,
                triplet_channels,
                lengths,
                angular,
                last=not atoms and layer == layers - 1,
            )
            for layer in range(layers)
        )

    def forward(self, atoms: Tensor, graph: Graph) -> tuple[Tensor, list[Tensor], Tensor]:
        """Compute atoms (B, N, C) after all layers, and edges (B, N, k, E) before and after each.

        With them come the functions of the distance (B, N, k, L) that layers share.
        """
        lengths = self.lengths(graph.radial)
        edges = self.edges(atoms, graph)
        states = [edges]
        for layer in self.layers:
            atoms, edges = layer(atoms, edges, lengths, graph)
            states.append(edges)
        return atoms, states, lengths
