"""Encoders of CDVAE: features of the atoms of clean crystals.

They stand over one of several backbones. With CSPNet, which searches no neighbours, all is dense
products, and holds for reduced cells; PairFormer and GemsNet hold for any choice of cell vectors,
and DimeNet++ on bonds by CrystalNN for supercells too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crysgen.models.cdvae_inputs import invariant_cells, log_sizes
from crysgen.networks.base import build_network, check_settings
from crysgen.networks.cspnet import CSPNet
from crysgen.networks.embedding import AtomEmbedding


class CrystalEncoder(nn.Module, ABC):
    """Features of atoms of clean crystals.

    Attributes:
        channels: of an atom.
        static: whether the shapes of `search` follow from those of its arguments.
    """

    static = True
    channels: int

    def search(self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor) -> Any:
        """Search the neighbours or bonds that `forward` wants, without gradients."""
        return ()

    @abstractmethod
    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """Return features (B, N, C); without meaning on padding.

        Args:
            atomic_numbers: (B, N).
            frac_coords: (B, N, 3).
            lattices: (B, 3, 3) rows in Å.
            neighbours: of `search`.
        """


class CSPEncoder(CrystalEncoder):
    """CSPNet over embedded atoms and their number.

    Args:
        settings: keyword arguments of `CSPNet`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        check_settings(CSPNet, settings)
        self.network = CSPNet(**settings)
        self.channels = self.network.channels
        self.embedding = AtomEmbedding(self.channels, step=False)
        self.size = nn.Linear(1, self.channels)

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """See `CrystalEncoder`."""
        mask = atomic_numbers > 0
        nodes = self.embedding(atomic_numbers, lattices[:, 0, 0])
        nodes = nodes + self.size(log_sizes(mask, nodes))
        found: Tensor = self.network(
            nodes, frac_coords, invariant_cells(lattices, mask), mask, lattices
        )
        return found


class NetworkEncoder(CrystalEncoder):
    """A backbone over nearest neighbours.

    Args:
        name: of the backbone.
        settings: its keyword arguments.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = build_network(name, settings)
        self.channels = self.network.channels

    def search(self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor) -> Any:
        """See `CrystalEncoder`."""
        return self.network.search(frac_coords, lattices, atomic_numbers > 0)

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """See `CrystalEncoder`."""
        step = torch.zeros_like(lattices[:, 0, 0])
        nodes: Tensor = self.network(atomic_numbers, lattices, step, neighbours).nodes
        return nodes


class BondEncoder(CrystalEncoder):
    """DimeNet++ on bonds by CrystalNN (Appendix B): the paper's encoder.

    Args:
        settings: fields of DimeNet++'s settings.
    """

    static = False

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        from crysmetrics.features.cdvae_property.network import DimeNetPlusPlus, Settings

        unknown = set(settings) - set(Settings.__dataclass_fields__)
        if unknown:
            raise ValueError(f"DimeNet++ has no setting {', '.join(sorted(unknown))}")
        chosen = Settings(**{"num_outputs": 256, **settings})
        self.network, self.channels = DimeNetPlusPlus(chosen), chosen.num_outputs

    def search(self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor) -> Any:
        """See `CrystalEncoder`: bonds, found on the CPU."""
        from crysgen.training.batch import Batch
        from crysmetrics.features.bonds import crystalnn_bonds
        from crysmetrics.features.cdvae_property.graph import bond_graph

        crystals = Batch(atomic_numbers, frac_coords, lattices).to_crystals()
        return bond_graph(crystals, crystalnn_bonds(crystals), str(lattices.device))

    def forward(
        self, atomic_numbers: Tensor, frac_coords: Tensor, lattices: Tensor, neighbours: Any
    ) -> Tensor:
        """See `CrystalEncoder`."""
        atoms = self.network.atoms(neighbours)
        mask = atomic_numbers > 0
        return atoms.new_zeros(*mask.shape, atoms.shape[-1]).masked_scatter(mask[..., None], atoms)


ENCODERS: dict[str, Callable[[Mapping[str, Any]], CrystalEncoder]] = {
    "cspnet": CSPEncoder,
    "pairformer": lambda settings: NetworkEncoder("pairformer", settings),
    "gemsnet": lambda settings: NetworkEncoder("gemsnet", settings),
    "dimenet": BondEncoder,
}
"""Encoders by name."""
