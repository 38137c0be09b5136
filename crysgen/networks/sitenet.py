"""SiteNet: messages on the symmetry-reduced multigraph of non-equivalent sites.

Nodes are the non-equivalent sites of a crystal, edges lead from each to its nearest images of all
atoms, so that several may join the same two sites, or a site with itself (Section 4.1 of the
adaptive-cell paper). Messages and triplets are GemsNet's. All features are invariant, so that
equivalent atoms have the same, and the graph of sites gives what that of all atoms would.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crysgen.networks.embedding import AtomEmbedding
from crysgen.networks.gemsnet import Messages
from crysgen.networks.gemsnet_layers import Geometry, Graph
from crysgen.networks.neighbours import Neighbours, nearest_images


class SiteGraph(NamedTuple):
    """The multigraph of B crystals with at most M non-equivalent sites and N atoms.

    Attributes:
        atomic_numbers: (B, M) of the sites; 0 is padding.
        multiplicity: (B, M) atoms of each site's orbit in the cell.
        freedom: (B, M) number of directions in which a site may move.
        length: (B,) (V/N)^(1/3) in Å, of all atoms.
        neighbours: the nearest images around each site; `index` is of sites.
    """

    atomic_numbers: Tensor
    multiplicity: Tensor
    freedom: Tensor
    length: Tensor
    neighbours: Neighbours


class SiteFeatures(NamedTuple):
    """Features from SiteNet.

    Attributes:
        nodes: (B, M, C) of sites.
        edges: (B, M, k, E) of edges.
        graph: geometry of the edges.
    """

    nodes: Tensor
    edges: Tensor
    graph: Graph


def search_sites(
    frac_coords: Tensor, lattices: Tensor, mask: Tensor, sites: Tensor, site_of: Tensor, k: int
) -> Neighbours:
    """Search the nearest images of all atoms around the non-equivalent sites alone.

    Args:
        frac_coords: (B, N, 3).
        lattices: (B, 3, 3) rows in Å.
        mask: (B, N) where atoms are.
        sites: (B, M) int64, the atom that stands for each site.
        site_of: (B, N) int64, the site that each atom belongs to.
        k: edges of each site.
    """
    found = nearest_images(frac_coords, lattices, mask, k, around=sites)
    index = site_of.gather(1, found.index.flatten(1)).unflatten(1, found.index.shape[1:])
    return found._replace(index=index)


class SiteNet(nn.Module):
    """Layers of messages between sites; see the module.

    Args:
        channels: width of a site's features.
        edge_channels: width of an edge's features.
        triplet_channels: width of the message from an edge to the other edges of its site.
        layers: how many.
        radial: basis functions of the distance in Å; half as many of that relative to (V/N)^(1/3).
        lengths: low-dimensional functions of the distance, which all layers share.
        angular: Legendre polynomials of the angle.
        k: edges of each site.
        triplet_k: the nearest of them that make triplets with all.
        levels: numbers that tell how noisy a crystal is.
    """

    def __init__(
        self,
        channels: int = 128,
        edge_channels: int = 128,
        triplet_channels: int = 32,
        layers: int = 4,
        radial: int = 32,
        lengths: int = 16,
        angular: int = 6,
        k: int = 32,
        triplet_k: int = 16,
        levels: int = 2,
    ) -> None:
        super().__init__()
        self.k, self.edge_channels = k, edge_channels
        self.embedding = AtomEmbedding(channels, step=False)
        self.crystal = nn.Sequential(
            nn.Linear(1 + levels, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.site = nn.Linear(2, channels)
        self.geometry = Geometry(radial, angular, triplet_k)
        self.messages = Messages(
            channels,
            edge_channels,
            triplet_channels,
            lengths,
            angular,
            layers,
            self.geometry.size,
            atoms=False,
        )
        self.norm = nn.LayerNorm(edge_channels)
        self.gate = nn.Linear(lengths, edge_channels)

    def forward(self, graph: SiteGraph, levels: Tensor) -> SiteFeatures:
        """Return features of sites and edges.

        Args:
            graph: of B crystals.
            levels: (B, L) how noisy they are, about -1 to 1.
        """
        mask, length = graph.atomic_numbers > 0, graph.length
        edges = self.geometry(mask, length, graph.neighbours)
        crystal = torch.cat([length.log()[:, None] - 1, levels], -1)
        nodes = self.embedding(graph.atomic_numbers, torch.zeros_like(length))
        own = torch.stack([graph.multiplicity.clamp_min(1).log(), graph.freedom / 3], -1)
        nodes = nodes + self.crystal(crystal)[:, None] + self.site(own)
        nodes, states, lengths = self.messages(nodes, edges)
        features = self.norm(states[-1]) * self.gate(lengths)
        return SiteFeatures(nodes, features, edges)
