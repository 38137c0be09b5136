"""CSPNet as a backbone of models that move atoms and bend cells, in place of PairFormer.

It searches no neighbours. Its features are the same under rotation, reflection, translation and
permutation, but, unlike those of the other backbones, not for another choice of cell vectors: the
cells of training are reduced, and those of sampling come near them as noise falls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crysgen.matrices import determinants
from crysgen.networks.base import Network
from crysgen.networks.cspnet import GRAM, CSPNet
from crysgen.networks.embedding import AtomEmbedding


class CSPFeatures(NamedTuple):
    """Features from CSPNet, which has none of neighbours.

    Attributes:
        nodes: (B, N, C) of atoms.
        length: (B,) (V/N)^(1/3) in Å.
    """

    nodes: Tensor
    length: Tensor


class CSPBackbone(Network):
    """CSPNet over embedded atoms, the step and the density.

    Args:
        channels: width of atoms' features and of messages.
        layers: how many.
        frequencies: of the sines and cosines of fractional differences.
        radial: functions of distances that messages know; the paper has none.
        same: whether messages are told which atoms are of one element; the paper's are not.
    """

    def __init__(
        self,
        channels: int = 128,
        layers: int = 4,
        frequencies: int = 10,
        radial: int = 16,
        same: bool = True,
    ) -> None:
        super().__init__()
        self.k, self.edge_channels = 0, 0
        self.channels = channels
        self.embedding = AtomEmbedding(channels)
        self.density = nn.Linear(2, channels)
        self.network = CSPNet(channels, layers, frequencies, radial, same=same)

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Tensor:
        """Return the positions (B, N, 3), which are all that messages want to know."""
        return frac_coords

    def forward(
        self,
        atomic_numbers: Tensor,
        lattices: Tensor,
        step: Tensor,
        neighbours: Tensor,
        embedded: Tensor | None = None,
    ) -> CSPFeatures:
        """See `Network.forward`; `embedded` (B, N, C) stands for what is embedded of the atoms."""
        mask = atomic_numbers > 0
        with torch.autocast(lattices.device.type, enabled=False):
            cells = lattices.to(self.density.weight.dtype)
            counts = mask.sum(1).clamp_min(1).to(cells)
            length = (determinants(cells).abs() / counts).pow(1 / 3)
            sizes = torch.stack([length.log() - 1, counts.log() - 2], -1)
            shapes = cell_shapes(cells, length, counts)
        atoms = embedded
        if atoms is None:
            atoms = self.embedding(atomic_numbers, step.to(cells))
        atoms = atoms + self.density(sizes)[:, None]
        nodes = self.network(
            atoms, neighbours.to(cells), shapes, mask, cells, groups=atomic_numbers
        )
        return CSPFeatures(nodes, length)


def cell_shapes(lattices: Tensor, length: Tensor, counts: Tensor) -> Tensor:
    """Describe the shapes of cells by six invariant numbers (B, 6) of about 1, in any noise.

    They are the logarithms of lengths in units of V^(1/3), and the cosines of angles: what the Gram
    matrix says, but without its large entries in flat cells.

    Args:
        lattices: (B, 3, 3) rows in Å.
        length: (B,) (V/N)^(1/3) in Å.
        counts: (B,) N.
    """
    lengths = lattices.norm(dim=-1)
    units = lattices / lengths[..., None]
    cosines = torch.stack([(units[:, i] * units[:, j]).sum(-1) for i, j in GRAM[3:]], -1)
    whole = length * counts.pow(1 / 3)
    return torch.cat([(lengths / whole[:, None]).log(), cosines], -1)
