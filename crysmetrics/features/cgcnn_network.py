"""The crystal graph convolutional neural network of Xie and Grossman, for inference.

Phys. Rev. Lett. 120, 145301 (2018), as released with that paper: Eq. 5 with batch normalisation
before the gates and after the sum. Modules are named as there, so that its weights load.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus


class Convolution(nn.Module):
    """One update of the atoms by their bonds.

    Args:
        atom_width: numbers per atom, F.
        bond_width: numbers per bond, G.
    """

    def __init__(self, atom_width: int, bond_width: int) -> None:
        super().__init__()
        self.widths = (atom_width, atom_width, bond_width)
        self.fc_full = nn.Linear(sum(self.widths), 2 * atom_width)
        self.bn1 = nn.BatchNorm1d(2 * atom_width)
        self.bn2 = nn.BatchNorm1d(atom_width)

    def forward(self, atoms: Tensor, bonds: Tensor, neighbours: Tensor) -> Tensor:
        """Update atoms (N, F) from bonds (N, M, G) and indices of neighbours (N, M)."""
        # The layer is linear in the atom, its neighbour and the bond between them side by side.
        # Applied to each by itself, it is computed once for an atom, not for each of its bonds.
        from_atom, from_neighbour, from_bond = self.fc_full.weight.split(self.widths, dim=1)
        gates = linear(bonds, from_bond)
        gates += linear(atoms, from_neighbour)[neighbours]
        gates += linear(atoms, from_atom, self.fc_full.bias)[:, None]
        gates = self.bn1(gates.flatten(0, 1)).unflatten(0, neighbours.shape)
        gate, core = gates.chunk(2, dim=2)
        message = torch.sigmoid(gate).mul_(softplus(core)).sum(dim=1)
        return softplus(atoms + self.bn2(message))


class CGCNN(nn.Module):
    """Crystal graphs to features and a property, which is still normalised.

    Args:
        element_width: numbers that describe an element.
        bond_width: numbers that describe a bond.
        atom_width: numbers per atom between convolutions.
        feature_width: numbers per crystal before the last layer.
        convolutions: how many of them.
    """

    def __init__(
        self,
        element_width: int,
        bond_width: int,
        atom_width: int,
        feature_width: int,
        convolutions: int,
    ) -> None:
        super().__init__()
        self.widths = (element_width, bond_width, feature_width)
        self.embedding = nn.Linear(element_width, atom_width)
        self.convs = nn.ModuleList(
            [Convolution(atom_width, bond_width) for _ in range(convolutions)]
        )
        self.conv_to_fc = nn.Linear(atom_width, feature_width)
        self.fc_out = nn.Linear(feature_width, 1)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> CGCNN:
        """Make the network that these tensors belong to, ready for inference.

        Raises:
            ValueError: if they are no weights of such a network.
        """
        try:
            atom_width, element_width = state["embedding.weight"].shape
            feature_width, _ = state["conv_to_fc.weight"].shape
            bond_width = state["convs.0.fc_full.weight"].shape[1] - 2 * atom_width
            convolutions = len([name for name in state if name.endswith(".fc_full.weight")])
            net = cls(element_width, bond_width, atom_width, feature_width, convolutions)
            net.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"the tensors do not fit the network: {error}") from error
        return net.eval().requires_grad_(False)

    def features(
        self, elements: Tensor, bonds: Tensor, neighbours: Tensor, num_atoms: Tensor
    ) -> Tensor:
        """Compute the activations before the last layer.

        Args:
            elements: (N, element_width) descriptions of the atoms' elements.
            bonds: (N, M, bond_width) descriptions of the bonds.
            neighbours: (N, M) int64, index of the atom at a bond's other end.
            num_atoms: (B,) int64, atoms of each crystal; they follow each other.

        Returns:
            (B, feature_width).
        """
        atoms = self.embedding(elements)
        for convolution in self.convs:
            atoms = convolution(atoms, bonds, neighbours)
        # Unlike index_add, this sums in the same order each time on a GPU as well.
        crystals = torch.segment_reduce(atoms, "mean", lengths=num_atoms, axis=0)
        return softplus(self.conv_to_fc(softplus(crystals)))

    def forward(
        self, elements: Tensor, bonds: Tensor, neighbours: Tensor, num_atoms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute features (B, feature_width) and the normalised property (B,)."""
        features = self.features(elements, bonds, neighbours, num_atoms)
        return features, self.fc_out(features)[:, 0]
