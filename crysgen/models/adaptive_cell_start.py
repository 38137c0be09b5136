"""Lattices with which sampling of the adaptive-cell model begins: normal, as those of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crysgen.diffusion.lattice import symmetric_exp
from crysgen.models.adaptive_cell_config import AdaptiveCellConfig
from crysgen.training.batch import Batch
from crysgen.training.site_data import SPACE_GROUP
from crysgen.wyckoff.reductions import bravais_lattice
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.space_groups.projection import Orbits

_FEW = 5
"""Crystals of a Bravais lattice that tell nothing yet of its shapes."""
_USUAL = (0.0, 0.0, 0.0, 0.3, 0.3, 0.3)


def symmetric_noise(numbers: Tensor) -> Tensor:
    """Make symmetric matrices (B, 3, 3) of normal numbers (B, 6), alike in all directions."""
    xx, yy, zz, yz, xz, xy = numbers.unbind(-1)
    half = 0.5**0.5
    rows = [xx, half * xy, half * xz, half * xy, yy, half * yz, half * xz, half * yz, zz]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def fitted_shapes(train: Batch) -> tuple[tuple[float, float], dict[str, list[float]]]:
    """Measure volumes and conventional cells of crystals in primitive cells of their groups.

    Returns:
        Mean and standard deviation of the logarithm of the volume of an atom in Å³; and by Bravais
        lattice, means and standard deviations of the logarithms of a, b and c at volume 1.
    """
    numbers = train.properties[SPACE_GROUP].long().cpu().numpy()
    lattices = train.lattices.double().cpu().numpy()
    volumes = np.log(np.abs(np.linalg.det(lattices)) / train.num_atoms.cpu().numpy())
    edges: dict[str, list[np.ndarray]] = {}
    for number, lattice in zip(numbers.tolist(), lattices, strict=True):
        group = space_group(number)
        conventional = np.linalg.inv(group.primitive_basis) @ lattice
        size = abs(np.linalg.det(conventional)) ** (1 / 3)
        lengths = np.log(np.linalg.norm(conventional, axis=1) / size)
        edges.setdefault(bravais_lattice(group), []).append(lengths)
    shapes = {
        name: [round(float(x), 4) for x in (*np.mean(rows, 0), *np.std(rows, 0))]
        for name, rows in sorted(edges.items())
        if len(rows) >= _FEW
    }
    return (float(volumes.mean()), float(max(volumes.std(), 0.05))), shapes


def start_lattices(
    orbits: Sequence[Orbits], draws: Tensor, config: AdaptiveCellConfig, sigma: float
) -> Tensor:
    """Draw lattices (B, 3, 3) in Å, float64, in the cells of B crystals.

    Args:
        orbits: of the crystals; they need not obey their groups to the last digit.
        draws: (B, 12) normal numbers.
        config: with the statistics of the training data.
        sigma: noise of the lattice with which the way begins.
    """
    found: list[np.ndarray] = []
    mean, std = config.volume
    for one, numbers in zip(orbits, draws.numpy(), strict=True):
        group = one.space_group
        shape = np.array(config.shapes.get(bravais_lattice(group), _USUAL))
        unit = symmetric_lattice(np.eye(3), group.rotations)
        edges = np.exp(shape[:3] + shape[3:] * numbers[:3])
        lattice = symmetric_lattice(edges[:, None] * unit, group.rotations)
        strain = sigma * symmetric_noise(draws[len(found) : len(found) + 1, 3:9])[0]
        lattice = one.basis @ lattice @ symmetric_exp(strain).numpy()
        volume = len(one.first) * np.exp(mean + std * numbers[9] + float(strain.trace()))
        size = (volume / abs(np.linalg.det(lattice))) ** (1 / 3)
        found.append(size * lattice)
    return torch.from_numpy(np.array(found))
