"""Bonds and pairs of bonds of packed crystals, as DimeNet++ takes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from crysmetrics.features.bonds import Bonds
from crysmetrics.features.cdvae_property.network import BondGraph
from crysmetrics.io import Crystals


def bond_graph(crystals: Crystals, bonds: Bonds, device: str = "cpu") -> BondGraph:
    """Build the graph of crystals from their bonds.

    As in CDVAE's code, a bond receives messages from all bonds that end at its first atom, but for
    those that start at its last atom or at any periodic image of that.

    Args:
        crystals: B structures.
        bonds: of all of them.
        device: where the tensors are put.
    """
    incoming, bond = _adjoining(bonds, len(crystals.atomic_numbers))
    vectors = torch.as_tensor(bonds.vectors, device=device)
    distances = vectors.norm(dim=1)
    unit = vectors / distances[:, None]
    k_j, j_i = torch.as_tensor(incoming, device=device), torch.as_tensor(bond, device=device)
    cosines = (unit[k_j] * unit[j_i]).sum(dim=1)

    def tensor(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.int64, device=device)

    return BondGraph(
        atomic_numbers=tensor(crystals.atomic_numbers),
        crystal=tensor(crystals.structure_index),
        num_atoms=tensor(crystals.num_atoms),
        source=tensor(bonds.source),
        target=tensor(bonds.target),
        distances=distances.float(),
        incoming=k_j,
        bond=j_i,
        cosines=cosines.float(),
    )


def _adjoining(bonds: Bonds, num_atoms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List pairs (k -> j, j -> i) of bonds by their indices; bonds are sorted by target."""
    count = np.bincount(bonds.target, minlength=num_atoms)
    start = np.cumsum(count) - count
    pairs = count[bonds.source]
    bond = np.repeat(np.arange(len(pairs)), pairs)
    place = np.arange(len(bond)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    incoming = start[bonds.source[bond]] + place
    keep = bonds.source[incoming] != bonds.target[bond]
    return incoming[keep], bond[keep]
