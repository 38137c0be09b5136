"""Niggli cells, and mappings of one lattice onto another, as StructureMatcher has them, compiled.

Follows pymatgen step by step, so that cells come out with the same axes and mappings in the same
order.
"""

from __future__ import annotations

import math

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.matching._linear import (
    determinant,
    dot,
    inverse,
    length,
    lll,
    times,
)

MAX_POINTS = 200_000
"""Lattice points looked at for one cell. A cell with more of them within the length of its
longest axis is a sheet or a needle ten thousand times finer than long."""

DEGREES = 180 / math.pi


@njit(nogil=True, cache=True)
def lattice_points(cell, radius, points, cart, distances, scratch):
    """List lattice points within a sphere around the origin, in the order of pymatgen's cell lists.

    Mappings are tried in this order, and the first that fits well enough is taken. pymatgen bins
    points into 3x3x3 cubes, goes through these in order, and through each from its last point to
    its first.

    Args:
        cell: (3, 3) rows.
        radius: Å.
        points, cart, distances, scratch: (MAX_POINTS, 3), (MAX_POINTS, 3), (MAX_POINTS,) and
            (MAX_POINTS, 4) that get coefficients, positions and distances; the last to work in.

    Returns:
        The number of points; -1 if there are too many.
    """
    # Below 1 Å pymatgen searches 1 Å and then cuts.
    edge = radius if radius >= 1.0 else 1.0 + 1e-8
    size = abs(determinant(cell))
    squared_c = dot(cell, 2, cell, 2)
    # Planes of lattice points stand |a x b| / V apart, so that so many of them meet the sphere.
    reach0 = edge * _area(cell, 1, 2) / size + 1
    reach1 = edge * _area(cell, 0, 2) / size + 1
    if not reach0 * reach1 < 1e7:
        return -1
    inside = (edge + 1e-6) ** 2
    count = 0
    for i in range(-math.floor(reach0), math.floor(reach0) + 1):
        for j in range(-math.floor(reach1), math.floor(reach1) + 1):
            u = i * cell[0, 0] + j * cell[1, 0]
            v = i * cell[0, 1] + j * cell[1, 1]
            w = i * cell[0, 2] + j * cell[1, 2]
            # The line (u, v, w) + k c meets the sphere between the roots of a quadratic.
            middle = -(u * cell[2, 0] + v * cell[2, 1] + w * cell[2, 2]) / squared_c
            room = middle * middle - (u * u + v * v + w * w - inside) / squared_c
            if room < 0:
                continue
            half = math.sqrt(room)
            for k in range(math.floor(middle - half), math.ceil(middle + half) + 1):
                x = i * cell[0, 0] + j * cell[1, 0] + k * cell[2, 0]
                y = i * cell[0, 1] + j * cell[1, 1] + k * cell[2, 1]
                z = i * cell[0, 2] + j * cell[1, 2] + k * cell[2, 2]
                squared = x * x + y * y + z * z
                if squared >= edge * edge + 1e-8 or (radius < 1.0 and squared > radius * radius):
                    continue
                if count == MAX_POINTS:
                    return -1
                low = -edge - 2e-8
                cube = (
                    9 * math.floor((x - low) / edge)
                    + 3 * math.floor((y - low) / edge)
                    + math.floor((z - low) / edge)
                )
                scratch[count, 0], scratch[count, 1], scratch[count, 2] = i, j, k
                scratch[count, 3] = cube
                count += 1
    n = 0
    for cube in range(27):
        for i in range(count - 1, -1, -1):
            if scratch[i, 3] == cube:
                for k in range(3):
                    points[n, k] = scratch[i, k]
                x = (
                    points[n, 0] * cell[0, 0]
                    + points[n, 1] * cell[1, 0]
                    + points[n, 2] * cell[2, 0]
                )
                y = (
                    points[n, 0] * cell[0, 1]
                    + points[n, 1] * cell[1, 1]
                    + points[n, 2] * cell[2, 1]
                )
                z = (
                    points[n, 0] * cell[0, 2]
                    + points[n, 1] * cell[1, 2]
                    + points[n, 2] * cell[2, 2]
                )
                distances[n] = math.sqrt(x * x + y * y + z * z)
                n += 1
    times(points, 0, n, cell, cart)
    return n


@njit(nogil=True, cache=True)
def _area(m, i, j):
    """Compute the area between rows `i` and `j`."""
    x = m[i, 1] * m[j, 2] - m[i, 2] * m[j, 1]
    y = m[i, 2] * m[j, 0] - m[i, 0] * m[j, 2]
    z = m[i, 0] * m[j, 1] - m[i, 1] * m[j, 0]
    return math.sqrt(x * x + y * y + z * z)


@njit(nogil=True, cache=True)
def mappings(cell, lengths, angles, ltol, angle_tol, first_only, found, points, cart, dist, chosen):
    """Find triples of lattice vectors with lengths and angles near the wanted ones, in order.

    Args:
        cell: (3, 3) rows of the lattice searched.
        lengths, angles: (3,) wanted, in Å and degrees.
        ltol: relative tolerance of lengths.
        angle_tol: tolerance of angles in degrees.
        first_only: stop at the first that keeps the handedness of the cell; the first of all, if
            there is none. Otherwise all that span the whole lattice (determinant 1 or -1).
        found: (m, 3, 3) that gets their rows in Å.
        points, cart, dist, chosen: to work in, see `lattice_points`.

    Returns:
        Their number; -1 if there are too many lattice points, -2 if `found` is too short.
    """
    largest = max(lengths[0], lengths[1], lengths[2])
    n = lattice_points(cell, largest * (1 + ltol), points, cart, dist, chosen)
    if n < 0:
        return -1
    n0, n1, n2 = 0, 0, 0
    for i in range(n):
        ratio0, ratio1, ratio2 = dist[i] / lengths[0], dist[i] / lengths[1], dist[i] / lengths[2]
        if ratio0 < 1 + ltol and ratio0 > 1 / (1 + ltol):
            chosen[n0, 0] = i
            n0 += 1
        if ratio1 < 1 + ltol and ratio1 > 1 / (1 + ltol):
            chosen[n1, 1] = i
            n1 += 1
        if ratio2 < 1 + ltol and ratio2 > 1 / (1 + ltol):
            chosen[n2, 2] = i
            n2 += 1
    count = 0
    for ia in range(n0):
        a = int(chosen[ia, 0])
        for ib in range(n1):
            b = int(chosen[ib, 1])
            if not _angle_fits(cart, a, b, angles[2], angle_tol):
                continue
            for ic in range(n2):
                c = int(chosen[ic, 2])
                if not _angle_fits(cart, a, c, angles[1], angle_tol):
                    continue
                if not _angle_fits(cart, b, c, angles[0], angle_tol):
                    continue
                det = _integer_determinant(points, a, b, c)
                if det == 0 or (first_only and det < 0 and count > 0):
                    continue
                if not first_only and det != 1 and det != -1:
                    continue
                slot = 0 if first_only else count
                if slot == len(found):
                    return -2
                for k in range(3):
                    found[slot, 0, k] = cart[a, k]
                    found[slot, 1, k] = cart[b, k]
                    found[slot, 2, k] = cart[c, k]
                count = slot + 1
                if first_only and det > 0:
                    return 1
    return count


@njit(nogil=True, cache=True)
def _integer_determinant(p, a, b, c):
    return (
        p[a, 0] * (p[b, 1] * p[c, 2] - p[b, 2] * p[c, 1])
        - p[a, 1] * (p[b, 0] * p[c, 2] - p[b, 2] * p[c, 0])
        + p[a, 2] * (p[b, 0] * p[c, 1] - p[b, 1] * p[c, 0])
    )


@njit(nogil=True, cache=True)
def _angle_fits(cart, i, j, angle, tolerance):
    cosine = dot(cart, i, cart, j) / length(cart, i) / length(cart, j)
    return abs(math.acos(min(max(cosine, -1.0), 1.0)) * DEGREES - angle) <= tolerance


@njit(nogil=True, cache=True)
def _sign(value, tolerance):
    if abs(value) < tolerance:
        return 0
    return 1 if value > 0 else -1


@njit(nogil=True, cache=True)
def _turn(g, m, t):
    """Write mᵀ g m into `g`; `t` is (3, 3) to work in. Entries of `m` are 0, 1 or -1."""
    for i in range(3):
        for j in range(3):
            t[i, j] = g[i, 0] * m[0, j] + g[i, 1] * m[1, j] + g[i, 2] * m[2, j]
    for i in range(3):
        for j in range(3):
            g[i, j] = m[0, i] * t[0, j] + m[1, i] * t[1, j] + m[2, i] * t[2, j]


@njit(nogil=True, cache=True)
def _niggli_form(g, e, m, t):
    """Niggli-reduce the metric `g` in place (Grosse-Kunstleve, Sauter and Adams 2004, Acta
    Cryst. A 60, 1, in the variant of pymatgen); `m` and `t` are (3, 3) to work in."""
    for _ in range(100):
        if g[1, 1] + e < g[0, 0] or (
            abs(g[0, 0] - g[1, 1]) < e and abs(2 * g[1, 2]) > abs(2 * g[0, 2]) + e
        ):
            m[:] = 0.0
            m[0, 1] = m[1, 0] = m[2, 2] = -1.0
            _turn(g, m, t)
        if g[2, 2] + e < g[1, 1] or (
            abs(g[1, 1] - g[2, 2]) < e and abs(2 * g[0, 2]) > abs(2 * g[0, 1]) + e
        ):
            m[:] = 0.0
            m[0, 0] = m[1, 2] = m[2, 1] = -1.0
            _turn(g, m, t)
            continue
        x, y, z = _sign(2 * g[1, 2], e), _sign(2 * g[0, 2], e), _sign(2 * g[0, 1], e)
        same = -1 if x * y * z == 1 else 1
        i = -1 if x == same else 1
        j = -1 if y == same else 1
        k = -1 if z == same else 1
        if same == 1 and i * j * k == -1:
            if z == 0:
                k = -1
            elif y == 0:
                j = -1
            elif x == 0:
                i = -1
        m[:] = 0.0
        m[0, 0], m[1, 1], m[2, 2] = i, j, k
        _turn(g, m, t)
        a, b = g[0, 0], g[1, 1]
        p, q, r = 2 * g[1, 2], 2 * g[0, 2], 2 * g[0, 1]
        m[:] = 0.0
        m[0, 0] = m[1, 1] = m[2, 2] = 1.0
        if abs(p) > b + e or (abs(p - b) < e and r - e > 2 * q) or (abs(p + b) < e and -e > r):
            m[1, 2] = -1.0 if p > 0 else 1.0
        elif abs(q) > a + e or (abs(a - q) < e and r - e > 2 * p) or (abs(a + q) < e and -e > r):
            m[0, 2] = -1.0 if q > 0 else 1.0
        elif abs(r) > a + e or (abs(a - r) < e and q - e > 2 * p) or (abs(a + r) < e and -e > q):
            m[0, 1] = -1.0 if r > 0 else 1.0
        elif -e > p + q + r + a + b or (abs(p + q + r + a + b) < e and e < r + (a + q) * 2):
            m[0, 2] = m[1, 2] = 1.0
        else:
            break
        _turn(g, m, t)


@njit(nogil=True, cache=True)
def niggli_all(cells, frac, offsets, counts, which):
    """Put structures into their Niggli cells, in place.

    Args:
        cells: (B, 3, 3) rows. A cell that has no Niggli cell becomes NaN.
        frac: (N, 3) positions, those of structure `i` from `offsets[i]` on.
        offsets, counts: (B,) first atom, and number of atoms.
        which: indices of the structures to be changed.
    """
    points, cart = np.empty((MAX_POINTS, 3)), np.empty((MAX_POINTS, 3))
    dist, chosen = np.empty(MAX_POINTS), np.empty((MAX_POINTS, 4))
    lengths, angles, work = np.empty(3), np.empty(3), np.empty((3, 3, 3))
    a, g, m, t = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    found = np.empty((1, 3, 3))
    for s in which:
        cell = cells[s]
        lll(cell, a, m, work)
        e = 1e-5 * abs(determinant(cell)) ** (1 / 3)
        for i in range(3):
            for j in range(3):
                g[i, j] = dot(a, i, a, j)
        _niggli_form(g, e, m, t)
        good = True
        for i in range(3):
            good = good and g[i, i] > 0
            lengths[i] = math.sqrt(max(g[i, i], 0.0))
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            cosine = g[j, k] / lengths[j] / lengths[k] if good else 2.0
            good = good and abs(cosine) <= 1
            angles[i] = math.acos(cosine) * DEGREES if good else 0.0
        if good:
            number = mappings(
                cell, lengths, angles, e, 1.0, True, found, points, cart, dist, chosen
            )
            good = number == 1
        if not good:
            cell[:] = np.nan
            continue
        new = found[0]
        if determinant(new) <= 0:
            for i in range(3):
                for j in range(3):
                    new[i, j] = -new[i, j]
        same = True
        for i in range(3):
            for j in range(3):
                same = same and abs(new[i, j] - cell[i, j]) <= 1e-8 + 1e-5 * abs(cell[i, j])
        if same:
            continue
        first, last = offsets[s], offsets[s] + counts[s]
        times(frac, first, last, cell, frac)
        inverse(new, t, m)
        times(frac, first, last, m, frac)
        for i in range(first, last):
            for j in range(3):
                frac[i, j] = frac[i, j] % 1.0
        for i in range(3):
            for j in range(3):
                cell[i, j] = new[i, j]
