"""Compiled structure matching of two crystals with equally many atoms.

Follows pymatgen's `StructureMatcher` (volumes scaled, sites compared in an averaged cell) for
crystals that are reduced to primitive Niggli cells already. It decides which library entries are
one prototype and which candidates are the same; published numbers come from pymatgen's own.
"""

from __future__ import annotations

import numpy as np

from crysmetrics.compiled import njit


@njit(cache=True)
def _parameters(lattice):
    """Lengths and angles (degrees) of a cell with vectors as rows."""
    out = np.empty(6)
    for i in range(3):
        out[i] = np.sqrt((lattice[i] ** 2).sum())
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        cosine = (lattice[j] * lattice[k]).sum() / (out[j] * out[k])
        out[3 + i] = np.degrees(np.arccos(min(1.0, max(-1.0, cosine))))
    return out


@njit(cache=True)
def _metric(parameters):
    """Metric tensor of a cell with these parameters."""
    g = np.empty((3, 3))
    for i in range(3):
        g[i, i] = parameters[i] ** 2
        j, k = (i + 1) % 3, (i + 2) % 3
        g[j, k] = parameters[j] * parameters[k] * np.cos(np.radians(parameters[3 + i]))
        g[k, j] = g[j, k]
    return g


@njit(cache=True)
def _cells(lattice, goal, ltol, angle_tol, limit):
    """Integer matrices (M, 3, 3) that turn `lattice` into cells with about the shape `goal`."""
    reach = goal[:3].max() * (1 + ltol)
    inverse = np.linalg.inv(lattice)
    bound = np.empty(3, np.int64)
    for i in range(3):
        bound[i] = min(8, int(np.floor(reach * np.sqrt((inverse[:, i] ** 2).sum()) + 1e-6)))
    size = (2 * bound[0] + 1) * (2 * bound[1] + 1) * (2 * bound[2] + 1)
    vectors = np.empty((3, size, 3))
    coefficients = np.empty((3, size, 3), np.int64)
    lengths = np.empty((3, size))
    count = np.zeros(3, np.int64)
    for x in range(-bound[0], bound[0] + 1):
        for y in range(-bound[1], bound[1] + 1):
            for z in range(-bound[2], bound[2] + 1):
                v = x * lattice[0] + y * lattice[1] + z * lattice[2]
                length = np.sqrt((v**2).sum())
                for i in range(3):
                    if goal[i] / (1 + ltol) < length < goal[i] * (1 + ltol):
                        n = count[i]
                        vectors[i, n] = v
                        coefficients[i, n, 0], coefficients[i, n, 1] = x, y
                        coefficients[i, n, 2] = z
                        lengths[i, n] = length
                        count[i] += 1
    found = np.empty((limit, 3, 3), np.int64)
    number = 0
    for a in range(count[0]):
        for b in range(count[1]):
            cosine = (vectors[0, a] * vectors[1, b]).sum() / (lengths[0, a] * lengths[1, b])
            gamma = np.degrees(np.arccos(min(1.0, max(-1.0, cosine))))
            if abs(gamma - goal[5]) >= angle_tol:
                continue
            for c in range(count[2]):
                cosine = (vectors[0, a] * vectors[2, c]).sum() / (lengths[0, a] * lengths[2, c])
                beta = np.degrees(np.arccos(min(1.0, max(-1.0, cosine))))
                if abs(beta - goal[4]) >= angle_tol:
                    continue
                cosine = (vectors[1, b] * vectors[2, c]).sum() / (lengths[1, b] * lengths[2, c])
                alpha = np.degrees(np.arccos(min(1.0, max(-1.0, cosine))))
                if abs(alpha - goal[3]) >= angle_tol:
                    continue
                p, q, r = coefficients[0, a], coefficients[1, b], coefficients[2, c]
                det = (
                    p[0] * (q[1] * r[2] - q[2] * r[1])
                    - p[1] * (q[0] * r[2] - q[2] * r[0])
                    + p[2] * (q[0] * r[1] - q[1] * r[0])
                )
                if abs(det) != 1:
                    continue
                found[number, 0], found[number, 1], found[number, 2] = p, q, r
                number += 1
                if number == limit:
                    return found
    return found[:number]


@njit(cache=True)
def _assign(cost):
    """Columns (n,) of least total cost, one for each row (Jonker-Volgenant)."""
    n = len(cost)
    u, v = np.zeros(n + 1), np.zeros(n + 1)
    row_of, way = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    for i in range(1, n + 1):
        row_of[0] = i
        j0 = 0
        least = np.full(n + 1, np.inf)
        used = np.zeros(n + 1, np.bool_)
        while True:
            used[j0] = True
            i0, delta, j1 = row_of[j0], np.inf, 0
            for j in range(1, n + 1):
                if not used[j]:
                    now = cost[i0 - 1, j - 1] - u[i0] - v[j]
                    if now < least[j]:
                        least[j], way[j] = now, j0
                    if least[j] < delta:
                        delta, j1 = least[j], j
            for j in range(n + 1):
                if used[j]:
                    u[row_of[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            j0 = j1
            if row_of[j0] == 0:
                break
        while j0:
            row_of[j0] = row_of[way[j0]]
            j0 = way[j0]
    columns = np.empty(n, np.int64)
    for j in range(1, n + 1):
        columns[row_of[j] - 1] = j - 1
    return columns


@njit(cache=True, nogil=True)
def match(l1, f1, s1, l2, f2, s2, renamed, ltol, angle_tol, stol, first_only):
    """RMS displacements of crystal 1 laid onto crystal 2 under renamings of its species.

    Args:
        l1, f1, s1: cell rows (3, 3), fractional coordinates (n, 3), species (n,) from 0.
        l2, f2, s2: likewise; a Niggli cell; equally many atoms.
        renamed: (P, k) names that the k species of crystal 1 take, by case.
        ltol, angle_tol, stol: tolerances.
        first_only: take the first mapping within the tolerance instead of the best.

    Returns:
        Displacements (P,) as shares of (V/N)^(1/3), infinite where nothing matches; and for each
        case the atom of crystal 1 (P, n) that lies on each atom of crystal 2, with the cell
        (P, 3, 3) and shift (P, 3) that map it.
    """
    n, cases = len(s1), len(renamed)
    l1 = l1 / np.abs(np.linalg.det(l1)) ** (1 / 3) * n ** (1 / 3)
    l2 = l2 / np.abs(np.linalg.det(l2)) ** (1 / 3) * n ** (1 / 3)
    goal = _parameters(l2)
    best = np.full(cases, np.inf)
    best_atoms = np.zeros((cases, n), np.int64)
    best_cell = np.zeros((cases, 3, 3), np.int64)
    best_shift = np.zeros((cases, 3))
    cells = _cells(l1, goal, ltol, angle_tol, 600)
    kinds = renamed.shape[1]
    counts = np.zeros(kinds, np.int64)
    for s in s2:
        counts[s] += 1
    rare = 0
    for k in range(kinds):
        if counts[k] > 0 and (counts[rare] == 0 or counts[k] < counts[rare]):
            rare = k
    anchor = 0
    for i in range(n):
        if s2[i] == rare:
            anchor = i
            break
    names = np.empty(n, np.int64)
    cost = np.empty((n, n))
    step = np.empty((n, n, 3))
    for m in range(len(cells)):
        matrix = cells[m].astype(np.float64)
        parameters = (_parameters(matrix @ l1) + goal) / 2
        metric = _metric(parameters)
        volume = np.sqrt(max(1e-12, np.linalg.det(metric)))
        scale = (volume / n) ** (1 / 3)
        recip = np.linalg.inv(metric)
        frac = f1 @ np.linalg.inv(matrix)
        tolerance = np.empty(3)
        for k in range(3):
            tolerance[k] = np.sqrt(recip[k, k]) * stol * scale
        for case in range(cases):
            if first_only and best[case] < np.inf:
                continue
            for i in range(n):
                names[i] = renamed[case, s1[i]]
            for i0 in range(n):
                if names[i0] != rare:
                    continue
                shift = f2[anchor] - frac[i0]
                # Rows: atoms of 2; columns: atoms of 1.
                possible = True
                for j in range(n):
                    near = False
                    for i in range(n):
                        if names[i] != s2[j]:
                            continue
                        inside = True
                        for k in range(3):
                            d = frac[i, k] + shift[k] - f2[j, k]
                            d -= np.round(d)
                            if abs(d) > tolerance[k]:
                                inside = False
                                break
                        if inside:
                            near = True
                            break
                    if not near:
                        possible = False
                        break
                if not possible:
                    continue
                distinct = True
                columns = np.empty(n, np.int64)
                taken = np.zeros(n, np.bool_)
                for j in range(n):
                    low = np.inf
                    for i in range(n):
                        if names[i] != s2[j]:
                            cost[j, i] = 1e6
                            continue
                        d = frac[i] + shift - f2[j]
                        d -= np.round(d)
                        least = np.inf
                        e = np.empty(3)
                        # Beside the wrapped difference only its neighbours across the origin
                        # can be shorter, as the cell is reduced.
                        for image in range(8):
                            for k in range(3):
                                e[k] = d[k]
                                if (image >> k) & 1:
                                    e[k] -= 1.0 if d[k] > 0 else -1.0
                            square = 0.0
                            for p in range(3):
                                for q in range(3):
                                    square += e[p] * metric[p, q] * e[q]
                            if square < least:
                                least = square
                                for k in range(3):
                                    step[j, i, k] = e[k]
                        cost[j, i] = least
                        if least < low:
                            low = least
                            columns[j] = i
                    if taken[columns[j]]:
                        distinct = False
                    taken[columns[j]] = True
                if not distinct:
                    columns = _assign(cost)
                mean = np.zeros(3)
                total = 0.0
                for j in range(n):
                    total += cost[j, columns[j]]
                    mean += step[j, columns[j]]
                mean /= n
                total /= n
                for p in range(3):
                    for q in range(3):
                        total -= mean[p] * metric[p, q] * mean[q]
                rms = np.sqrt(max(0.0, total)) / scale
                if rms <= stol and rms < best[case] - 1e-9:
                    best[case] = rms
                    best_atoms[case] = columns
                    best_cell[case] = cells[m]
                    best_shift[case] = shift - mean
                    if first_only:
                        break
    return best, best_atoms, best_cell, best_shift
