"""GemsNet: the network of GemsDiff's Section 4.1 and Appendix A.

GemNet-type message passing between the edges of a periodic graph of nearest neighbours, through
triplets: an edge learns from the other edges of its atom by their lengths and the angles between
them. An encoder makes features of the atoms, a decoder, a second network of the same kind that
starts from those, makes fields: displacements from the edges, and a change of the cell from how
lengths and angles change with it. Klipfel et al., IJCAI 2023, describe it as a regression model.

What the network knows of a crystal is invariant, and fields are sums of edge vectors and of tensors
made of them, so that it is equivariant by construction (Appendix A).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crysgen.neighbours import Neighbours
from crysgen.networks.base import Fields, Network
from crysgen.networks.embedding import AtomEmbedding
from crysgen.networks.gemsnet_layers import (
    EdgeEmbedding,
    FieldHead,
    Geometry,
    Graph,
    Interaction,
)


class GemsNet(Network):
    """Triplet message passing, with fields of edges and triplets; see the module.

    Args:
        channels: width of an atom's features.
        edge_channels: width of an edge's features.
        triplet_channels: width of what an edge tells the other edges of its atom.
        layers: of the encoder, and as many of the decoder.
        radial: basis functions of the distance in Å; half as many of that relative to (V/N)^(1/3).
        lengths: low-dimensional functions of the distance, which all layers share.
        angular: Legendre polynomials of the angle.
        head: hidden width of the heads, one after each layer of the decoder and one before.
        rank: of the weights of triplets.
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
        head: int = 32,
        rank: int = 4,
        k: int = 32,
        triplet_k: int = 32,
        encoder: bool = True,
        time_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.k = k
        self.embedding = AtomEmbedding(channels, step=time_embedding)
        self.density = nn.Linear(1, channels)
        self.geometry = Geometry(radial, angular, triplet_k)
        sizes = (channels, edge_channels, triplet_channels, lengths, angular)
        shape = (*sizes, layers, self.geometry.size)
        self.encoder = Messages(*shape, atoms=True) if encoder else None
        self.decoder = Messages(*shape, atoms=False)
        self.heads = nn.ModuleList(
            FieldHead(edge_channels, head, lengths, angular, rank) for _ in range(layers + 1)
        )

    def forward(
        self, atomic_numbers: Tensor, lattices: Tensor, step: Tensor, neighbours: Neighbours
    ) -> Fields:
        """See `Network.forward`."""
        mask = atomic_numbers > 0
        cells = lattices.to(self.density.weight.dtype)
        inverse, volume = _inverse_and_volume(cells)
        counts = mask.sum(1).clamp_min(1).to(cells)
        length = (volume / counts).pow(1 / 3)
        graph = self.geometry(mask, length, neighbours)
        atoms = self.embedding(atomic_numbers, step.to(cells))
        atoms = atoms + self.density(length.log()[:, None, None] - 1)
        if self.encoder is not None:
            atoms, _ = self.encoder(atoms, graph)
        _, states = self.decoder(atoms, graph)
        fields = [head(*state, graph) for head, state in zip(self.heads, states, strict=True)]
        moved = torch.stack([vectors for vectors, _ in fields]).sum(0)
        bent = torch.stack([tensors for _, tensors in fields]).sum((0, 2))
        # In units of (V/N)^(1/3), so that a weight means the same in a cell of any size.
        to_fractional = length[:, None, None] * inverse
        displacement = (moved[..., None] * to_fractional[:, None]).sum(2)
        return Fields(displacement, bent / counts[:, None, None])


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

    def forward(self, atoms: Tensor, graph: Graph) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Atoms (B, N, C) after all layers, and before and after each layer the edges' features.

        With them come, the same each time, the functions of the distance that layers share.
        """
        lengths = self.lengths(graph.radial)
        edges = self.edges(atoms, graph)
        states = [(edges, lengths)]
        for layer in self.layers:
            atoms, edges = layer(atoms, edges, lengths, graph)
            states.append((edges, lengths))
        return atoms, states


def _inverse_and_volume(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses (B, 3, 3) and volumes (B,) of cells (B, 3, 3).

    By cross products: a solver would make a GPU wait to ask whether a matrix was singular.
    """
    a, b, c = cells.unbind(1)
    faces = torch.stack([b.cross(c, dim=-1), c.cross(a, dim=-1), a.cross(b, dim=-1)], dim=-1)
    determinant = (a * faces[..., 0]).sum(-1)
    return faces / determinant[:, None, None], determinant.abs()
