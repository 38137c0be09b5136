"""Compiled part of the CrystalNN fingerprint: from Voronoi faces to the numbers of a site."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from crysmetrics.features import _order_parameters as _op
from crysmetrics.features._order_parameters import (
    MAX_MOTIFS,
    MAX_NEIGHBOURS,
    motif_value,
    pair_geometry,
)
from crysmetrics.features._voronoi import (
    OK,
    OVERFLOW,
    build_cell,
    longest_diagonal,
    measure_faces,
    reduce_lattice,
)

# Status of a site, after those of _voronoi.
NO_RADIUS = 8

# Constants of CrystalNN (its defaults).
SEARCH_CUTOFF = 7.0
X_DIFF_WEIGHT = 3.0
MAX_X_DIFF = 3.3  # largest difference in electronegativity between two elements
DISTANCE_LOW = 0.5
DISTANCE_HIGH = 1.0
MAX_CN = 24
N_FEATURES = 61


def _columns() -> tuple[np.ndarray, np.ndarray]:
    """Column of the weight of each coordination number, and of its order parameters."""
    weight = np.zeros(MAX_CN + 1, dtype=np.int64)
    motif = np.zeros((MAX_NEIGHBOURS + 1, MAX_MOTIFS), dtype=np.int64)
    column = 0
    for cn in range(1, MAX_CN + 1):
        weight[cn] = column
        column += 1
        for place in range(len(_op.MOTIFS.get(cn, ()))):
            motif[cn, place] = column
            column += 1
    assert column == N_FEATURES
    return weight, motif


WEIGHT_COLUMN, MOTIF_COLUMN = _columns()


@njit(nogil=True, cache=True, fastmath=False)
def _semicircle(x):
    """Area under the quarter of the unit circle from 0 to x, as a share of the quarter."""
    if x == 1.0:
        return 1.0
    root = math.sqrt(1.0 - x * x)
    return 0.5 * (x * root + math.atan(x / root)) / (0.25 * math.pi)


@njit(nogil=True, cache=True, fastmath=False)
def _sort_down(key, order, n):
    """Stable insertion sort of `order` by falling key."""
    for i in range(1, n):
        item = order[i]
        k = i - 1
        while k >= 0 and key[order[k]] < key[item]:
            order[k + 1] = order[k]
            k -= 1
        order[k + 1] = item


@njit(nogil=True, cache=True, fastmath=False)
def neighbour_weights(z, site, n_faces, solid, area, atoms, electronegativity, radius, weight, order):
    """CrystalNN's weight of each Voronoi neighbour, in thousandths, largest first.

    The weight is the solid angle of the face, times solid angle over area (the correction for
    porous and layered crystals), times a factor for the difference in electronegativity; scaled to
    1 for the largest; then times a factor that falls from 1 to 0 while the distance goes from 0.5 Å
    to 1 Å more than the sum of the radii.

    Args:
        z: (n,) atomic numbers of the structure. site: index of the site.
        solid, area: (n_faces,) of the faces; atoms: (n_faces, 5), see `build_cell`.
        electronegativity, radius: (119,) by atomic number, NaN where unknown.
        weight, order: (n_faces,) filled; the neighbours in order are `order[:count]`, and
            `weight[order[i]]` their weights rounded to thousandths.

    Returns:
        (status, count)
    """
    count = 0
    best = 0.0
    x1 = electronegativity[z[site]]
    r1 = radius[z[site]]
    for f in range(n_faces):
        if solid[f] <= 0.0 or area[f] <= 0.0:
            continue
        w = solid[f] * (solid[f] / area[f])
        other = z[int(atoms[f, 4])]
        x2 = electronegativity[other]
        if not (math.isnan(x1) or math.isnan(x2)):
            w *= 1.0 + X_DIFF_WEIGHT * math.sqrt(abs(x1 - x2) / MAX_X_DIFF)
        if math.isnan(r1) or math.isnan(radius[other]):
            return NO_RADIUS, 0
        weight[f] = w
        order[count] = f
        count += 1
        best = max(best, w)
    for i in range(count):
        f = order[i]
        w = weight[f] / best
        low = r1 + radius[z[int(atoms[f, 4])]] + DISTANCE_LOW
        high = r1 + radius[z[int(atoms[f, 4])]] + DISTANCE_HIGH
        d = atoms[f, 3]
        if d >= high:
            w = 0.0
        elif d > low:
            w *= (math.cos((d - low) / (high - low) * math.pi) + 1.0) * 0.5
        weight[f] = w
    _sort_down(weight, order, count)
    kept = 0
    for i in range(count):
        f = order[i]
        weight[f] = np.rint(weight[f] * 1000.0)
        if weight[f] > 0.0:
            kept = i + 1
    return OK, kept


@njit(nogil=True, cache=True, fastmath=False)
def site_numbers(count, order, weight, atoms, table, unit, theta, meridian, defined, score, out):
    """Add up the 61 numbers of one site in `out`.

    Each distinct weight ends a shell: the neighbours down to it are one possible coordination, its
    likelihood the part of a quarter circle between this weight and the next lower one.
    """
    for i in range(min(count, MAX_NEIGHBOURS)):
        for c in range(3):
            unit[i, c] = atoms[order[i], c] / atoms[order[i], 3]
    have_pairs = False
    i = 0
    while i < count:
        value = weight[order[i]]
        while i < count and weight[order[i]] == value:
            i += 1
        following = weight[order[i]] if i < count else 0.0
        likelihood = _semicircle(value / 1000.0) - _semicircle(following / 1000.0)
        if i > MAX_CN:
            return
        out[WEIGHT_COLUMN[i]] = likelihood
        if i > MAX_NEIGHBOURS:
            continue
        if not have_pairs:
            pair_geometry(unit, min(count, MAX_NEIGHBOURS), theta, meridian, defined)
            have_pairs = True
        for place in range(_op.MOTIF_COUNT[i]):
            value_here = motif_value(i, place, table, unit, theta, meridian, defined, score)
            out[MOTIF_COLUMN[i, place]] = likelihood * value_here


@njit(nogil=True, cache=True, fastmath=False)
def fingerprint_range(
    first, last, lattices, frac_coords, atomic_numbers, offsets, electronegativity, radius, table,
    skip, status, bad_site, out, per_site, sites_out,
):
    """Fingerprints of structures first to last - 1; every structure stands for itself.

    Args:
        lattices (B, 3, 3), frac_coords (N, 3), atomic_numbers (N,): packed structures.
        offsets: (B + 1,) first site of each structure.
        electronegativity, radius: (119,) by atomic number.
        skip: (B,) structures to leave alone.
        status, bad_site: (B,) filled: what went wrong (0: nothing) and at which site.
        out: (B, 61) filled with means over sites.
        per_site: whether to fill sites_out (N, 61) too.
    """
    # Work arrays, doubled when a site needs more.
    n_near, n_corner, n_plane = 512, 256, 128
    rel = np.empty((n_near, 3))
    dist2 = np.empty(n_near)
    owner = np.empty(n_near, dtype=np.int64)
    heap = np.empty(n_near, dtype=np.int64)
    pos = np.empty((n_corner, 3))
    planes = np.empty((n_corner, 3), dtype=np.int64)
    links = np.empty((n_corner, 3), dtype=np.int64)
    side = np.empty(n_corner)
    ends = np.full(n_plane, -1, dtype=np.int64)
    starts = np.empty(n_plane, dtype=np.int64)
    atoms = np.empty((n_plane, 5))
    solid = np.empty(n_plane)
    area = np.empty(n_plane)
    weight = np.empty(n_plane)
    order = np.empty(n_plane, dtype=np.int64)
    unit = np.empty((MAX_NEIGHBOURS, 3))
    theta = np.empty((MAX_NEIGHBOURS, MAX_NEIGHBOURS))
    score = np.empty((MAX_NEIGHBOURS, MAX_NEIGHBOURS))
    meridian = np.empty((MAX_NEIGHBOURS, MAX_NEIGHBOURS, 3))
    defined = np.zeros((MAX_NEIGHBOURS, MAX_NEIGHBOURS), dtype=np.bool_)
    numbers = np.empty(N_FEATURES)
    for b in range(first, last):
        if skip[b]:
            continue
        lattice = lattices[b]
        frac = frac_coords[offsets[b] : offsets[b + 1]]
        z = atomic_numbers[offsets[b] : offsets[b + 1]]
        n_sites = len(z)
        transform, inverse, lower = reduce_lattice(lattice)
        volume = lower[0, 0] * lower[1, 1] * lower[2, 2]
        diagonal = longest_diagonal(lattice)
        short = np.empty((n_sites, 3))
        for j in range(n_sites):
            for c in range(3):
                short[j, c] = (
                    frac[j, 0] * inverse[0, c] + frac[j, 1] * inverse[1, c] + frac[j, 2] * inverse[2, c]
                )
        total = np.zeros(N_FEATURES)
        site = 0
        while site < n_sites:
            state, n_corners, n_planes = build_cell(
                frac, short, lattice, transform, lower, volume, diagonal, site, SEARCH_CUTOFF,
                rel, dist2, owner, heap, pos, planes, links, side, ends, atoms,
            )
            if state == OVERFLOW:
                n_near, n_corner, n_plane = 2 * n_near, 2 * n_corner, 2 * n_plane
                rel = np.empty((n_near, 3))
                dist2 = np.empty(n_near)
                owner = np.empty(n_near, dtype=np.int64)
                heap = np.empty(n_near, dtype=np.int64)
                pos = np.empty((n_corner, 3))
                planes = np.empty((n_corner, 3), dtype=np.int64)
                links = np.empty((n_corner, 3), dtype=np.int64)
                side = np.empty(n_corner)
                ends = np.full(n_plane, -1, dtype=np.int64)
                starts = np.empty(n_plane, dtype=np.int64)
                atoms = np.empty((n_plane, 5))
                solid = np.empty(n_plane)
                area = np.empty(n_plane)
                weight = np.empty(n_plane)
                order = np.empty(n_plane, dtype=np.int64)
                continue
            numbers[:] = 0.0
            if state == OK:
                measure_faces(pos, planes, links, n_corners, n_planes, atoms, starts, solid, area)
                state, count = neighbour_weights(
                    z, site, n_planes - 6, solid, area, atoms, electronegativity, radius,
                    weight, order,
                )
            if state != OK:
                status[b] = state
                bad_site[b] = site
                break
            site_numbers(
                count, order, weight, atoms, table, unit, theta, meridian, defined, score, numbers
            )
            for c in range(N_FEATURES):
                total[c] += numbers[c]
            if per_site:
                sites_out[offsets[b] + site] = numbers
            site += 1
        if status[b] == OK:
            for c in range(N_FEATURES):
                out[b, c] = total[c] / n_sites
