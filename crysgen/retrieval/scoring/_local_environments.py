"""Compiled descriptions of the environments of atoms."""

from __future__ import annotations

import numpy as np

from crysmetrics.compiled import njit


@njit(cache=True)
def _reach(cell, cutoff):
    """Count the images along each vector that hold all neighbours within a cutoff."""
    inverse = np.linalg.inv(cell)
    reach = np.empty(3, np.int64)
    for k in range(3):
        reach[k] = int(np.ceil(cutoff * np.sqrt((inverse[:, k] ** 2).sum()) + 0.5))
    return reach


@njit(cache=True)
def radial_histogram(lattice, frac, species, kinds, centres, width):
    """Count the neighbours of the atoms of each species by distance, at unit volume an atom.

    Args:
        lattice, frac, species: rows (3, 3), fractional coordinates (n, 3), species of atoms (n,).
        kinds: number of species k.
        centres, width: of Gaussians (R,) at equal steps over distances in units of (V/N)^(1/3);
            neighbours are counted up to two widths beyond the last one, the farthest of them ever
            less.

    Returns:
        (k, k, R): how many neighbours of the second species an atom of the first has at about each
        distance, as a mean over its atoms.
    """
    n = len(species)
    unit = (np.abs(np.linalg.det(lattice)) / n) ** (1 / 3)
    cell = lattice / unit
    cutoff = centres[-1] + 2 * width
    reach = _reach(cell, cutoff)
    shifts = np.empty((3, (2 * reach[0] + 1) * (2 * reach[1] + 1) * (2 * reach[2] + 1)))
    row = 0
    for x in range(-reach[0], reach[0] + 1):
        for y in range(-reach[1], reach[1] + 1):
            for z in range(-reach[2], reach[2] + 1):
                shifts[:, row] = x * cell[0] + y * cell[1] + z * cell[2]
                row += 1
    out = np.zeros((kinds, kinds, len(centres)))
    counts = np.zeros(kinds)
    # The Gaussian at the next centre is that at the last one, times `ratio`, times a constant.
    step = (centres[1] - centres[0]) / width
    constants = np.exp(-(2 * np.arange(len(centres)) + 1) * step * step / 2)
    for i in range(n):
        counts[species[i]] += 1
        for j in range(i, n):
            d = frac[j] - frac[i]
            d -= np.round(d)
            d = d @ cell
            square = (shifts[0] + d[0]) ** 2 + (shifts[1] + d[1]) ** 2 + (shifts[2] + d[2]) ** 2
            distance = np.sqrt(square[(square <= cutoff * cutoff) & (square >= 1e-4)])
            offset = (distance - centres[0]) / width
            fade = 0.5 + 0.5 * np.cos(np.pi / cutoff * distance)
            gauss, ratio = fade * np.exp(-offset * offset / 2), np.exp(offset * step)
            for r in range(len(centres)):
                number = gauss.sum()
                out[species[i], species[j], r] += number
                if i != j:
                    out[species[j], species[i], r] += number
                gauss *= ratio * constants[r]
    for k in range(kinds):
        out[k] /= max(counts[k], 1.0)
    return out


@njit(cache=True)
def equal_sites(numbers, atoms, vectors, cutoff, tolerance):
    """Find atoms with the same environment, as far as invariants tell.

    Args:
        numbers: atomic numbers (n,).
        atoms: (n, K) nearest neighbours of each atom.
        vectors: (n, K, 3) to them, beyond the cutoff where there are fewer.
        cutoff: of the neighbours.
        tolerance: by how much invariants may differ.

    Returns:
        For each atom the first one that is like it (n,).
    """
    n, most = atoms.shape
    label = numbers.astype(np.float64)
    # Twice, so that neighbours' neighbours count as well.
    for _ in range(2):
        found = np.zeros((n, 6))
        for i in range(n):
            vector = np.zeros(3)
            square = np.zeros((3, 3))
            for k in range(most):
                v = vectors[i, k]
                distance = np.sqrt((v**2).sum())
                if distance >= cutoff:
                    break
                fade = 0.5 + 0.5 * np.cos(np.pi * distance / cutoff)
                kind = label[atoms[i, k]]
                weight = fade * (1.0 + np.sin(1.7 * kind))
                found[i, 0] += fade
                found[i, 1] += weight * distance
                found[i, 2] += fade * np.cos(0.9 * kind) * distance * distance
                vector += weight * v
                for a in range(3):
                    for b in range(3):
                        square[a, b] += weight * v[a] * v[b]
            found[i, 3] = (vector**2).sum()
            found[i, 4] = (square**2).sum()
            found[i, 5] = 7.0 * label[i]
        first = np.arange(n)
        for i in range(n):
            for j in range(i):
                if first[j] == j and np.abs(found[i] - found[j]).max() < tolerance:
                    first[i] = j
                    break
        for i in range(n):
            # A number that tells sites apart: the element's, moved by what surrounds it.
            j = first[i]
            label[i] = numbers[i] + 0.3 * np.sin(found[j, 0] + 2 * found[j, 1] + 3 * found[j, 3])
    return first
