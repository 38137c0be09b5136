"""Small linear algebra on 3x3 matrices, in the order of operations of NumPy, compiled.

StructureMatcher decides ties (two images at equal distance, two assignments of equal cost) by the
last bit. Symmetric crystals are full of ties, so that the same answers need the same bits: BLAS
accumulates dot products by fused multiply-adds, and LAPACK solves by partial pivoting with
reciprocal pivots, both of which are spelled out here for three dimensions. On a processor where
NumPy's BLAS does otherwise only such ties can differ.

Results go to arrays that the caller gives, and nothing is allocated: numba's compiler spends most
of its time on arrays that come and go.
"""

from __future__ import annotations

import math

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.features._numeric import _fma as fma


@njit(nogil=True, cache=True)
def dot(a, i, b, j):
    """Compute the dot product of row `i` of `a` and row `j` of `b`."""
    return fma(a[i, 2], b[j, 2], fma(a[i, 1], b[j, 1], a[i, 0] * b[j, 0]))


@njit(nogil=True, cache=True)
def times(rows, first, last, matrix, out):
    """Compute rows `first` to `last` of `np.dot(rows, matrix)`, into the same rows of `out`.

    `out` may be `rows`.
    """
    for i in range(first, last):
        x, y, z = rows[i, 0], rows[i, 1], rows[i, 2]
        for j in range(3):
            out[i, j] = fma(z, matrix[2, j], fma(y, matrix[1, j], x * matrix[0, j]))


@njit(nogil=True, cache=True)
def inverse(matrix, a, out):
    """Compute `np.linalg.inv` of (3, 3) as LAPACK's dgesv does; `a` is (3, 3) to work in."""
    order0, order1, order2 = 0, 1, 2
    for i in range(3):
        for j in range(3):
            a[i, j] = matrix[i, j]
    for j in range(3):
        # Left-looking elimination: column j takes up all earlier steps at once.
        if j > 0:
            a[1, j] -= a[1, 0] * a[0, j]
        if j == 1:
            a[2, 1] -= a[2, 0] * a[0, 1]
        if j == 2:
            a[2, 2] -= fma(a[2, 1], a[1, 2], a[2, 0] * a[0, 2])
        pivot = j
        for i in range(j + 1, 3):
            if abs(a[i, j]) > abs(a[pivot, j]):
                pivot = i
        if pivot != j:
            for k in range(3):
                a[j, k], a[pivot, k] = a[pivot, k], a[j, k]
            if j == 1:
                order1, order2 = order2, order1
            elif pivot == 1:
                order0, order1 = order1, order0
            else:
                order0, order2 = order2, order0
        reciprocal = 1 / a[j, j]
        for i in range(j + 1, 3):
            a[i, j] *= reciprocal
    for c in range(3):
        y0 = 1.0 if order0 == c else 0.0
        y1 = fma(-a[1, 0], y0, 1.0 if order1 == c else 0.0)
        y2 = (1.0 if order2 == c else 0.0) - fma(a[2, 1], y1, a[2, 0] * y0)
        y2 *= 1 / a[2, 2]
        y1 = (y1 - a[1, 2] * y2) * (1 / a[1, 1])
        y0 = fma(-a[0, 1], y1, y0 - a[0, 2] * y2) * (1 / a[0, 0])
        out[0, c], out[1, c], out[2, c] = y0, y1, y2


@njit(nogil=True, cache=True)
def determinant(m):
    """Compute the signed volume of a cell by a cross and a dot product, as pymatgen has it."""
    x = m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]
    y = m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2]
    z = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    return fma(z, m[2, 2], fma(y, m[2, 1], x * m[2, 0]))


@njit(nogil=True, cache=True)
def length(m, i):
    """Compute the length of row `i`."""
    return math.sqrt(m[i, 0] * m[i, 0] + m[i, 1] * m[i, 1] + m[i, 2] * m[i, 2])


@njit(nogil=True, cache=True)
def angle_cosine(m, i):
    """Compute the cosine of the angle opposite to axis `i`, between -1 and 1."""
    j, k = (i + 1) % 3, (i + 2) % 3
    return min(max(dot(m, j, m, k) / (length(m, j) * length(m, k)), -1.0), 1.0)


@njit(nogil=True, cache=True)
def reciprocal_length(inv, i):
    """Compute the length of reciprocal vector `i`, 2 pi included, from the inverse of a cell."""
    x, y, z = inv[0, i] * 2 * np.pi, inv[1, i] * 2 * np.pi, inv[2, i] * 2 * np.pi
    return math.sqrt(x * x + y * y + z * z)


@njit(nogil=True, cache=True)
def lll(cell, a, mapping, work):
    """Do the Lenstra-Lenstra-Lovász reduction with delta 3/4.

    Each step as in pymatgen's `Lattice._calculate_lll`: where a coefficient is half an integer,
    as in every hexagonal cell, the last bit decides which of several bases comes out.

    Args:
        cell: (3, 3) rows.
        a: (3, 3); gets the reduced rows.
        mapping: (3, 3); gets the integers that make `a` of `cell`.
        work: (3, 3, 3) to work in: orthogonal parts, coefficients, squared lengths.
    """
    b, u, m = work[0], work[1], work[2, 0]
    for i in range(3):
        for j in range(3):
            a[i, j] = cell[i, j]
            mapping[i, j] = 1.0 if i == j else 0.0
    for i in range(3):
        _orthogonalise(a, b, u, m, i)
    k = 1
    for _ in range(10_000):
        if k == 3:
            break
        for i in range(k - 1, -1, -1):
            q = np.rint(u[k, i])
            if q != 0:
                for r in range(3):
                    a[k, r] -= q * a[i, r]
                    mapping[k, r] -= q * mapping[i, r]
                for r in range(i):
                    u[k, r] -= q * u[i, r]
                u[k, i] -= q
        shift = abs(u[k, k - 1])
        if dot(b, k, b, k) >= (0.75 - shift * shift) * dot(b, k - 1, b, k - 1):
            k += 1
            continue
        for r in range(3):
            a[k, r], a[k - 1, r] = a[k - 1, r], a[k, r]
            mapping[k, r], mapping[k - 1, r] = mapping[k - 1, r], mapping[k, r]
        _orthogonalise(a, b, u, m, k - 1)
        _orthogonalise(a, b, u, m, k)
        if k > 1:
            k -= 1
        else:
            # pymatgen solves a diagonal system by singular values, which scale by the largest.
            top = max(m[0], m[1])
            for j in range(2):
                u[2, j] = dot(a, 2, b, j) * (1 / (m[j] * (1 / top))) * (1 / top)


@njit(nogil=True, cache=True)
def _orthogonalise(a, b, u, m, i):
    """Do Gram-Schmidt for row `i`: coefficients, orthogonal part and its squared length."""
    for j in range(i):
        u[i, j] = dot(a, i, b, j) / m[j]
    for r in range(3):
        if i == 0:
            b[i, r] = a[i, r]
        elif i == 1:
            b[i, r] = a[i, r] - b[0, r] * u[i, 0]
        else:
            b[i, r] = a[i, r] - fma(b[1, r], u[i, 1], b[0, r] * u[i, 0])
    m[i] = dot(b, i, b, i)
