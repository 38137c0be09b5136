"""Atoms around a site of a periodic crystal, for cells of any shape.

Kernels are compiled by numba, release the GIL and keep no state. All lengths are in ångström.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.features._numeric import cartesian


class Crystal(NamedTuple):
    """A structure, prepared for enumerating its atoms.

    Attributes:
        lattice: (3, 3), rows are the lattice vectors.
        frac: (n, 3) fractional coordinates.
        short: (n, 3) the same in a basis of short vectors.
        transform: (3, 3) integers (as floats), short basis = transform @ lattice.
        lower: (3, 3) the short basis in rotated axes, lower triangular.
        density: atoms per Å^3.
        diagonal: length of the cell's longest body diagonal.
    """

    lattice: np.ndarray
    frac: np.ndarray
    short: np.ndarray
    transform: np.ndarray
    lower: np.ndarray
    density: float
    diagonal: float


class Neighbourhood(NamedTuple):
    """Atoms found around a site, in work arrays of length m.

    Attributes:
        vector: (m, 3) from the site.
        dist2: (m,) squared distances.
        owner: (m,) index of the atom in the structure.
        heap: (m,) scratch for taking them out by distance.
    """

    vector: np.ndarray
    dist2: np.ndarray
    owner: np.ndarray
    heap: np.ndarray


@njit(nogil=True, cache=True, fastmath=False)
def make_neighbourhood(size):
    """Make work arrays for up to `size` atoms."""
    return Neighbourhood(
        np.empty((size, 3)),
        np.empty(size),
        np.empty(size, dtype=np.int64),
        np.empty(size, dtype=np.int64),
    )


@njit(nogil=True, cache=True, fastmath=False)
def make_crystal(lattice, frac):
    """Prepare a structure: lattice (3, 3), frac (n, 3)."""
    transform, inverse, lower = reduce_lattice(lattice)
    short = np.empty(frac.shape)
    for j in range(len(frac)):
        for c in range(3):
            short[j, c] = _dot(frac[j], inverse[:, c])
    density = len(frac) / (lower[0, 0] * lower[1, 1] * lower[2, 2])
    diagonal = longest_diagonal(lattice)
    return Crystal(lattice, frac, short, transform, lower, density, diagonal)


@njit(nogil=True, cache=True, fastmath=False)
def reduce_lattice(lattice):
    """Find a short basis of a lattice, for enumerating points in a sphere.

    Args:
        lattice: (3, 3), rows are the lattice vectors.

    Returns:
        transform (3, 3): integers (as floats); the rows of ``transform @ lattice`` are a basis of
            vectors that cannot be shortened by adding one to another.
        inverse (3, 3): its inverse; fractional coordinates in the short basis are
            ``frac @ inverse``.
        lower (3, 3): the short basis in rotated axes, lower triangular with a positive diagonal.
    """
    # Not `geometry.reduce_cell`: the transform itself is needed here, in exact integers, for the
    # absurdly skewed cells too; a basis reduced in pairs is short enough, and cheaper.
    t = np.eye(3)
    b = lattice.copy()
    for _ in range(200):
        # The shortest vector first makes the triangular form (and so the search) tight.
        for p in range(2):
            for q in range(2 - p):
                if _dot(b[q], b[q]) > _dot(b[q + 1], b[q + 1]):
                    for c in range(3):
                        b[q, c], b[q + 1, c] = b[q + 1, c], b[q, c]
                        t[q, c], t[q + 1, c] = t[q + 1, c], t[q, c]
        changed = False
        for p in range(1, 3):
            for q in range(p):
                m = np.rint(_dot(b[p], b[q]) / _dot(b[q], b[q]))
                if m == 0.0:
                    continue
                old = _dot(b[p], b[p])
                for c in range(3):
                    t[p, c] -= m * t[q, c]
                for c in range(3):  # from the lattice itself, so that no error accumulates
                    b[p, c] = (
                        t[p, 0] * lattice[0, c] + t[p, 1] * lattice[1, c] + t[p, 2] * lattice[2, c]
                    )
                changed = changed or _dot(b[p], b[p]) < old * (1.0 - 1e-12)
        if not changed:
            break
    inverse = np.empty((3, 3))
    det = (
        t[0, 0] * (t[1, 1] * t[2, 2] - t[1, 2] * t[2, 1])
        - t[0, 1] * (t[1, 0] * t[2, 2] - t[1, 2] * t[2, 0])
        + t[0, 2] * (t[1, 0] * t[2, 1] - t[1, 1] * t[2, 0])
    )
    for p in range(3):
        p1, p2 = (p + 1) % 3, (p + 2) % 3
        for q in range(3):
            q1, q2 = (q + 1) % 3, (q + 2) % 3
            inverse[q, p] = (t[p1, q1] * t[p2, q2] - t[p1, q2] * t[p2, q1]) / det
    lower = np.zeros((3, 3))
    lower[0, 0] = math.sqrt(_dot(b[0], b[0]))
    lower[1, 0] = _dot(b[1], b[0]) / lower[0, 0]
    lower[1, 1] = math.sqrt(max(_dot(b[1], b[1]) - lower[1, 0] ** 2, 0.0))
    lower[2, 0] = _dot(b[2], b[0]) / lower[0, 0]
    volume = abs(
        b[0, 0] * (b[1, 1] * b[2, 2] - b[1, 2] * b[2, 1])
        - b[0, 1] * (b[1, 0] * b[2, 2] - b[1, 2] * b[2, 0])
        + b[0, 2] * (b[1, 0] * b[2, 1] - b[1, 1] * b[2, 0])
    )
    if lower[1, 1] > 0.0:
        lower[2, 1] = (_dot(b[2], b[1]) - lower[2, 0] * lower[1, 0]) / lower[1, 1]
        lower[2, 2] = volume / (lower[0, 0] * lower[1, 1])
    return t, inverse, lower


@njit(nogil=True, cache=True, fastmath=False)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(nogil=True, cache=True, fastmath=False)
def longest_diagonal(lattice):
    """Measure the cell's longest body diagonal: the peer's bound on its search radius."""
    best = 0.0
    for k in range(4):
        s0 = -1.0 if k == 1 else 1.0
        s1 = -1.0 if k == 2 else 1.0
        s2 = -1.0 if k == 3 else 1.0
        d2 = 0.0
        for c in range(3):
            x = s0 * lattice[0, c] + s1 * lattice[1, c] + s2 * lattice[2, c]
            d2 += x * x
        best = max(best, d2)
    return math.sqrt(best)


@njit(nogil=True, cache=True, fastmath=False)
def _image(transform, n0, n1, n2, axis):
    """Shift along an axis of the given basis by whole vectors of the short one."""
    return n0 * transform[0, axis] + n1 * transform[1, axis] + n2 * transform[2, axis]


@njit(nogil=True, cache=True, fastmath=False)
def find_atoms(crystal, site, lo2, hi2, near):
    """Find the atoms, images included, with lo2 <= squared distance from a site < hi2.

    Lines of lattice points that meet the sphere are walked in the short basis, so that the work is
    proportional to the number of atoms found, whatever the shape of the cell.

    Args:
        near: Neighbourhood, filled; the site itself is left out.

    Returns:
        Number of atoms found, or -1 if the arrays are too small.
    """
    lattice, frac, short = crystal.lattice, crystal.frac, crystal.short
    lower, transform = crystal.lower, crystal.transform
    count = 0
    capacity = len(near.dist2)
    radius2 = hi2 * (1.0 + 1e-9) + 1e-9  # never lose an atom to rounding; the exact test follows
    radius = math.sqrt(radius2)
    f = frac[site]
    x0 = cartesian(f[0], f[1], f[2], lattice, 0)
    y0 = cartesian(f[0], f[1], f[2], lattice, 1)
    z0 = cartesian(f[0], f[1], f[2], lattice, 2)
    reach2 = radius / lower[2, 2]
    per0, per1 = 1.0 / lower[0, 0], 1.0 / lower[1, 1]
    for j in range(frac.shape[0]):
        d0 = short[j, 0] - short[site, 0]
        d1 = short[j, 1] - short[site, 1]
        d2 = short[j, 2] - short[site, 2]
        for n2 in range(math.ceil(-reach2 - d2), math.floor(reach2 - d2) + 1):
            s2 = n2 + d2
            left = radius2 - (s2 * lower[2, 2]) ** 2
            if left < 0.0:
                continue
            reach1 = math.sqrt(left) * per1
            c1 = -d1 - s2 * lower[2, 1] * per1
            for n1 in range(math.ceil(c1 - reach1), math.floor(c1 + reach1) + 1):
                s1 = n1 + d1
                y = s1 * lower[1, 1] + s2 * lower[2, 1]
                rest = left - y * y
                if rest < 0.0:
                    continue
                reach0 = math.sqrt(rest) * per0
                c0 = -d0 - (s1 * lower[1, 0] + s2 * lower[2, 0]) * per0
                for n0 in range(math.ceil(c0 - reach0), math.floor(c0 + reach0) + 1):
                    # Shift in the given basis, then the coordinates the way the peer gets them.
                    g0 = frac[j, 0] + _image(transform, n0, n1, n2, 0)
                    g1 = frac[j, 1] + _image(transform, n0, n1, n2, 1)
                    g2 = frac[j, 2] + _image(transform, n0, n1, n2, 2)
                    x = cartesian(g0, g1, g2, lattice, 0) - x0
                    y = cartesian(g0, g1, g2, lattice, 1) - y0
                    z = cartesian(g0, g1, g2, lattice, 2) - z0
                    r2 = x * x + y * y + z * z
                    if r2 < lo2 or r2 >= hi2:
                        continue
                    if j == site and n0 == 0 and n1 == 0 and n2 == 0:
                        continue
                    if count == capacity:
                        return -1
                    near.vector[count, 0] = x
                    near.vector[count, 1] = y
                    near.vector[count, 2] = z
                    near.dist2[count] = r2
                    near.owner[count] = j
                    count += 1
    return count


@njit(nogil=True, cache=True, fastmath=False)
def make_heap(near, count):
    """Prepare taking out the first `count` atoms by distance."""
    for k in range(count):
        near.heap[k] = k
    for k in range(count // 2 - 1, -1, -1):
        _sift_down(near.heap, near.dist2, k, count)


@njit(nogil=True, cache=True, fastmath=False)
def take_nearest(near, count):
    """Take the nearest of `count` atoms left; returns its index."""
    nearest = near.heap[0]
    near.heap[0] = near.heap[count - 1]
    _sift_down(near.heap, near.dist2, 0, count - 1)
    return nearest


@njit(nogil=True, cache=True, fastmath=False)
def _sift_down(heap, key, start, end):
    root = start
    while True:
        child = 2 * root + 1
        if child >= end:
            return
        if child + 1 < end and key[heap[child + 1]] < key[heap[child]]:
            child += 1
        if key[heap[child]] >= key[heap[root]]:
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child
