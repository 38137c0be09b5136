"""Operations of all space groups as tensors, and the orbits that they make of a batch's atoms."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysmetrics.space_groups.groups import GRID, space_group

GROUPS = 230
MOST = 48
"""Operations of a primitive cell at most."""
_SAME = 1e-3
"""Fractional coordinates within which an atom and the image of an atom are the same one."""


class FoundOrbits(NamedTuple):
    """Orbits of the atoms of B crystals.

    Attributes:
        first: (B, N) int64, the first atom of each atom's orbit.
        rotations: (B, N, 3, 3) that take the first atom to each.
        projectors: (B, N, 3, 3) the mean over the site symmetry of each atom.
        operations: (B, G, 3, 3) rotations of the group.
        weights: (B, G) of the operations in means; 0 where a group has fewer.
    """

    first: Tensor
    rotations: Tensor
    projectors: Tensor
    operations: Tensor
    weights: Tensor


class OperationTable(nn.Module):
    """Operations of the 230 space groups in primitive cells (`SpaceGroup.primitive_basis`).

    Row 0 is of no group, and holds the identity alone.

    Attributes:
        rotations: (231, 48, 3, 3); those beyond a group's are identities.
        translations: (231, 48, 3) float64.
        counts: (231,) int64 operations of each group.
        freedom: (231,) numbers that a lattice of each group has.
        rows: (231, 3, 3) float64 of conventional vectors, from those of the primitive cell.
    """

    rotations: Tensor
    translations: Tensor
    counts: Tensor
    freedom: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in _arrays().items():
            self.register_buffer(name, torch.from_numpy(values.copy()), persistent=False)

    def orbits(self, frac_coords: Tensor, atomic_numbers: Tensor, numbers: Tensor) -> FoundOrbits:
        """Find the orbits of atoms in primitive cells of their groups' standard settings.

        Args:
            frac_coords: (B, N, 3) that obey the groups.
            atomic_numbers: (B, N); 0 is padding.
            numbers: (B,) int64 of the space groups.
        """
        frac = frac_coords.double()
        turns = self.rotations[numbers]
        there = torch.arange(frac.shape[1], device=frac.device)
        images = torch.einsum("bgij,bnj->bgni", turns.double(), frac)
        images = (images + self.translations[numbers][:, :, None]).float()
        same = (atomic_numbers[:, :, None] == atomic_numbers[:, None])[:, None]
        for axis in range(3):
            steps = images[..., axis, None] - frac.float()[:, None, None, :, axis]
            same = same & ((steps - steps.round()).abs() < _SAME)
        # (B, G, N) the atom that each operation takes each atom to; padding stays where it is.
        onto = same.to(torch.uint8).argmax(-1)
        onto = torch.where((atomic_numbers > 0)[:, None], onto, there)
        first = onto.amin(1)
        taken = onto.gather(2, first[:, None].expand_as(onto)) == there
        chosen = taken.to(torch.uint8).argmax(1)[..., None, None].expand(-1, -1, 3, 3)
        count = torch.arange(MOST, device=frac.device) < self.counts[numbers][:, None]
        stays = ((onto == there) & count[..., None]).to(turns)
        stays = stays / stays.sum(1, keepdim=True)
        return FoundOrbits(
            first,
            turns.gather(1, chosen),
            torch.einsum("bgn,bgij->bnij", stays, turns),
            turns,
            count.to(turns) / count.sum(1, keepdim=True),
        )


@cache
def _arrays() -> dict[str, NDArray[Any]]:
    rotations = np.tile(np.eye(3, dtype=np.float32), (GROUPS + 1, MOST, 1, 1))
    translations = np.zeros((GROUPS + 1, MOST, 3))
    counts = np.ones(GROUPS + 1, dtype=np.int64)
    freedom = np.full(GROUPS + 1, 6, dtype=np.float32)
    rows = np.tile(np.eye(3), (GROUPS + 1, 1, 1))
    for number in range(1, GROUPS + 1):
        group = space_group(number)
        columns = np.linalg.inv(group.primitive_basis).T
        turned = np.rint(columns @ group.rotations @ np.linalg.inv(columns))
        moved = np.rint(GRID * (group.translations @ columns.T)) % GRID / GRID
        # Those that differ by a centring are the same in a primitive cell.
        both = np.unique(np.concatenate([turned.reshape(-1, 9), moved], axis=1), axis=0)
        counts[number] = len(both)
        rotations[number, : len(both)] = both[:, :9].reshape(-1, 3, 3)
        translations[number, : len(both)] = both[:, 9:]
        freedom[number] = len(group.lattice_basis)
        rows[number] = np.linalg.inv(group.primitive_basis)
    return {
        "rotations": rotations,
        "translations": translations,
        "counts": counts,
        "freedom": freedom,
        "rows": rows,
    }
