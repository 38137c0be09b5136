"""Small sets of crystals that several test modules share."""

from __future__ import annotations

import numpy as np

from crysmetrics.io import Crystals

ELEMENTS = (3, 8, 9, 11, 12, 16, 17, 20, 22, 26, 29, 30)


def random_crystals(count: int, seed: int = 0, atoms: tuple[int, int] = (2, 6)) -> Crystals:
    """Crystals of a few atoms in random, not too flat cells of sensible volume."""
    rng = np.random.default_rng(seed)
    num_atoms = rng.integers(atoms[0], atoms[1] + 1, count)
    lattices = np.eye(3) + 0.25 * rng.normal(size=(count, 3, 3))
    volumes = np.abs(np.linalg.det(lattices))
    lattices *= ((15 * num_atoms / volumes) ** (1 / 3))[:, None, None]
    total = int(num_atoms.sum())
    return Crystals(
        rng.choice(ELEMENTS, total),
        rng.random((total, 3)),
        lattices,
        num_atoms,
        [f"random-{seed}-{i}" for i in range(count)],
    )


def one(numbers: list[int], frac: list[list[float]], cell: object, name: str = "x") -> Crystals:
    """A single crystal; `cell` is a cube's edge or three rows."""
    lattice = np.eye(3) * cell if np.isscalar(cell) else np.asarray(cell)
    return Crystals(np.array(numbers), np.array(frac), lattice[None], [len(numbers)], [name])


def rocksalt(a: float = 5.64, name: str = "NaCl") -> Crystals:
    """Primitive rock salt."""
    cell = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], cell, name)


def zinc_blende(a: float = 5.64, name: str = "zb") -> Crystals:
    """Primitive zinc blende."""
    cell = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return one([11, 17], [[0, 0, 0], [0.25, 0.25, 0.25]], cell, name)


def wild_crystals(counts: tuple[int, ...], seed: int = 0) -> Crystals:
    """Crystals at the last step of GemsDiff: cells from x^ρ ~ N(0, 1), atoms anywhere."""
    import torch

    from crysgen.diffusion.lattice import exp_lattice, restore_lengths

    rng = np.random.default_rng(seed)
    vectors = torch.tensor(rng.normal(size=(len(counts), 6)))
    cells = restore_lengths(exp_lattice(vectors), torch.tensor(counts)).numpy()
    total = sum(counts)
    names = [f"wild-{seed}-{i}" for i in range(len(counts))]
    return Crystals(
        rng.choice(ELEMENTS, total), rng.random((total, 3)), cells, np.array(counts), names
    )
