"""Space groups as tensors: projection of positions, displacements and cells of a batch.

What `crysmetrics.space_groups.projection` does for one crystal, for B crystals on a device, in
static shapes and without waiting for a value, so that it can be part of a CUDA graph. Everything is
computed in double precision, whatever the precision of what is projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crysgen.diffusion.torus import wrap
from crysgen.matrices import symmetric_eigen
from crysmetrics.space_groups.projection import NEAR_CELLS, Orbits

if TYPE_CHECKING:
    from crysgen.wyckoff.draws import DrawnOrbits

_MOST_ROTATIONS = 24
"""Of a crystal class, without inversions. Always as many, so that batches have the same shapes."""
_MOST_POINTS = 4
"""Lattice points in a conventional cell, likewise."""


class Conventional(NamedTuple):
    """How conventional cells are made of the crystals that a batch holds.

    Attributes:
        atomic_numbers: (B, M) int64; 0 is padding.
        source: (B, M) int64, the atom of the batch's cell on the first site of the orbit.
        rotations: (B, M, 3, 3) that take that site to each atom, in conventional coordinates.
        translations: (B, M, 3) of the same operations.
        columns: (B, 3, 3) of conventional coordinates, from those of the batch's cell.
        rows: (B, 3, 3) of conventional vectors, from those of the batch's cell.
    """

    atomic_numbers: Tensor
    source: Tensor
    rotations: Tensor
    translations: Tensor
    columns: Tensor
    rows: Tensor


class GroupTensors(NamedTuple):
    """Space groups of B crystals of at most N atoms, which are in the order of their orbits.

    In fractional coordinates of the cells that the crystals are in. Padding has an orbit of its
    own, which stays at 0.

    Attributes:
        first: (B, N) int64, the atom on the first site of each atom's orbit.
        rotations: (B, N, 3, 3) that take the first site to each atom; they act on columns.
        inverses: (B, N, 3, 3) of the same.
        translations: (B, N, 3) of the same operations.
        origins: (B, N, 3) a point on the position of the first site.
        projectors: (B, N, 3, 3) the mean over the site symmetry of the first site.
        means: (B, N, N) each row the share of every atom in the mean over an atom's orbit.
        near: (27, 3) whole numbers: a cell and those around it.
        point_group: (B, G, 3, 3) rotations of the crystal class, those and their negatives once.
        weights: (B, G) of the rotations in means: 0 where a class has fewer.
        conventional: how the conventional cells are made.
    """

    first: Tensor
    rotations: Tensor
    inverses: Tensor
    translations: Tensor
    origins: Tensor
    projectors: Tensor
    means: Tensor
    near: Tensor
    point_group: Tensor
    weights: Tensor
    conventional: Conventional

    def project_frac_coords(self, frac_coords: Tensor) -> Tensor:
        """Project fractional coordinates (B, N, 3); those that obey the group stay as they are."""
        frac = frac_coords.double()
        sites, cell = self._first_sites(frac)
        moves = _turn(self.rotations, sites + cell) + self.translations - frac
        return (frac + moves - moves.round()).to(frac_coords)

    def _first_sites(self, frac: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first sites (B, N, 3) of orbits, on their positions, and their cells.

        Those cells (B, N, 3) are whole numbers, zero in the copy of a position that tables have.
        """
        back = _turn(self.inverses, frac - self.translations)
        at_first = _gather(back, self.first)
        steps = back - at_first
        mean = at_first + self.means @ (steps - steps.round())
        # Of the copies of the position in neighbouring cells, the nearest one is taken.
        steps = mean - self.origins
        cells = steps.round()[:, :, None] + self.near
        one = torch.eye(3, dtype=frac.dtype, device=frac.device)
        away = _turn((one - self.projectors)[:, :, None], steps[:, :, None] - cells)
        best = away.square().sum(-1).argmin(-1)[..., None, None].expand(-1, -1, 1, 3)
        cell = cells.gather(2, best).squeeze(2)
        return self.origins + _turn(self.projectors, steps - cell), cell

    def project_displacements(self, vectors: Tensor) -> Tensor:
        """Project displacements (B, N, 3), noise or scores in fractional coordinates."""
        mean = self.means @ _turn(self.inverses, vectors.double())
        return _turn(self.rotations, _turn(self.projectors, mean)).to(vectors)

    def project_lattices(self, lattices: Tensor) -> Tensor:
        """Project cells (B, 3, 3) onto the nearest that the groups allow, of the same volume.

        The mean of the images of the metric along geodesics, around the arithmetic one: cells that
        obey the group stay as they are, but for their orientation, which becomes that of symmetric
        matrices. An arithmetic mean of large deviations would have a larger volume.
        """
        cells = lattices.double()
        metric = cells @ cells.mT
        images = self.point_group.mT @ metric[:, None] @ self.point_group
        mean = (images * self.weights[..., None, None]).sum(1)
        root, inverse = _powers(mean, 0.5, -0.5)
        bent = inverse @ metric @ inverse
        values, vectors = symmetric_eigen((bent + bent.mT) / 2)
        logarithm = (vectors * values.log()[:, None]) @ vectors.mT
        turned = root[:, None] @ self.point_group @ inverse[:, None]  # orthogonal
        images = turned.mT @ logarithm[:, None] @ turned
        strain = (images * self.weights[..., None, None]).sum(1)
        values, vectors = symmetric_eigen((strain + strain.mT) / 2)
        allowed = root @ (vectors * values.exp()[:, None]) @ vectors.mT @ root
        return _powers(allowed, 0.5)[0].to(lattices)

    def conventional_cells(
        self, frac_coords: Tensor, lattices: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the crystals in conventional cells, exact to double precision.

        Args:
            frac_coords: (B, N, 3).
            lattices: (B, 3, 3) rows in Å.

        Returns:
            Atomic numbers (B, M), fractional coordinates (B, M, 3) in [0, 1), and cells (B, 3, 3).
        """
        own = self.conventional
        # In the copy of a position that the operations are of: another one, which is as good in a
        # primitive cell, may differ by a centring.
        first, _ = self._first_sites(frac_coords.double())
        sites = _turn(own.columns[:, None], _gather(first, own.source))
        frac = wrap(_turn(own.rotations, sites) + own.translations)
        present = (own.atomic_numbers > 0)[..., None]
        cells = own.rows @ self.project_lattices(lattices.double())
        return own.atomic_numbers, frac * present, cells


def stack_orbits(
    orbits: Sequence[Orbits],
    elements: Sequence[NDArray[np.int64]],
    size: int,
    device: torch.device,
) -> GroupTensors:
    """Stack the orbits of B crystals, padded to `size` atoms.

    Args:
        orbits: of each crystal.
        elements: (k,) atomic number of each orbit, of each crystal.
        size: N.
        device: of the tensors.
    """
    batch = len(orbits)
    classes = [_without_negatives(one.point_group) for one in orbits]
    first = np.tile(np.arange(size), (batch, 1))
    rotations = np.tile(np.eye(3), (batch, size, 1, 1))
    projectors = np.zeros((batch, size, 3, 3))
    translations, origins = np.zeros((2, batch, size, 3))
    means = np.tile(np.eye(size), (batch, 1, 1))
    point_group = np.tile(np.eye(3), (batch, _MOST_ROTATIONS, 1, 1))
    weights = np.zeros((batch, _MOST_ROTATIONS))
    for row, (one, whole) in enumerate(zip(orbits, classes, strict=True)):
        count = len(one.first)
        first[row, :count] = one.first
        rotations[row, :count] = one.rotations
        translations[row, :count] = one.translations
        origins[row, :count] = one.origins
        projectors[row, :count] = one.projectors
        same = one.first[:, None] == one.first
        means[row, :count, :count] = same / same.sum(1, keepdims=True)
        point_group[row, : len(whole)] = whole
        weights[row, : len(whole)] = 1 / len(whole)
    inverses = np.rint(np.linalg.inv(rotations))
    near = NEAR_CELLS.astype(np.float64)
    conventional = _conventional(orbits, elements, _MOST_POINTS * size, device)

    def sent(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return GroupTensors(
        first=sent(first),
        rotations=sent(rotations),
        inverses=sent(inverses),
        translations=sent(translations),
        origins=sent(origins),
        projectors=sent(projectors),
        means=sent(means),
        near=sent(near),
        point_group=sent(point_group),
        weights=sent(weights),
        conventional=conventional,
    )


def stack_drawn(drawn: Sequence[DrawnOrbits], size: int, device: torch.device) -> GroupTensors:
    """Stack the orbits that were drawn for B crystals; see `stack_orbits`."""
    return stack_orbits(
        [one.orbits for one in drawn], [one.elements for one in drawn], size, device
    )


def place_orbits(orbits: Sequence[Orbits], numbers: Tensor) -> Tensor:
    """Place the atoms of B crystals on their orbits.

    Args:
        orbits: of each crystal.
        numbers: (B, N, 3) values of x, y and z, of which those of an orbit's first atom count.

    Returns:
        (B, N, 3) fractional coordinates in [0, 1); uniform on each position if the numbers are.
    """
    values = numbers.double().cpu().numpy()
    placed = np.zeros_like(values)
    for row, one in enumerate(orbits):
        placed[row, : len(one.first)] = one.place(values[row, np.unique(one.first)])
    return torch.from_numpy(placed).to(numbers)


def _conventional(
    orbits: Sequence[Orbits],
    elements: Sequence[NDArray[np.int64]],
    size: int,
    device: torch.device,
) -> Conventional:
    whole = [Orbits(one.space_group, one.positions) for one in orbits]
    batch = len(orbits)
    numbers, source = np.zeros((2, batch, size), dtype=np.int64)
    rotations = np.tile(np.eye(3), (batch, size, 1, 1))
    translations = np.zeros((batch, size, 3))
    for row, (small, large, own) in enumerate(zip(orbits, whole, elements, strict=True)):
        count = len(large.first)
        numbers[row, :count] = np.repeat(own, large.counts)
        source[row, :count] = np.repeat(np.unique(small.first), large.counts)
        rotations[row, :count] = large.rotations
        translations[row, :count] = large.translations
    bases = np.array([one.basis for one in orbits]).reshape(-1, 3, 3)
    arrays = (numbers, source, rotations, translations,
              np.swapaxes(bases, 1, 2).copy(), np.linalg.inv(bases))  # fmt: skip
    return Conventional(*(torch.from_numpy(x).to(device) for x in arrays))


def _without_negatives(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out inversions, which change no metric; every rotation comes once."""
    proper = rotations * np.linalg.det(rotations)[:, None, None].round()
    return np.unique(proper.reshape(-1, 9), axis=0).reshape(-1, 3, 3)


def _turn(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply columns (..., 3) by matrices (..., 3, 3)."""
    return (matrices @ vectors[..., None]).squeeze(-1)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, 3))


def _powers(metrics: Tensor, *exponents: float) -> list[Tensor]:
    """Raise symmetric positive definite matrices (B, 3, 3) to powers."""
    values, vectors = symmetric_eigen((metrics + metrics.mT) / 2)
    return [(vectors * values.pow(power)[:, None]) @ vectors.mT for power in exponents]
