"""Compiled part of the CrystalNN fingerprint: from Voronoi faces to the numbers of a site."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.features import _order_parameters as _op
from crysmetrics.features._lattice_points import make_crystal, make_neighbourhood
from crysmetrics.features._order_parameters import (
    BCC,
    MAX_MOTIFS,
    MAX_NEIGHBOURS,
    body_centred,
    make_directions,
    motif_value,
    pair_geometry,
)
from crysmetrics.features._voronoi import (
    MAX_SPHERE_ATOMS,
    OK,
    OPEN_CELL,
    OVERFLOW,
    TOO_DENSE,
    build_cell,
    make_cell,
    measure_faces,
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
# Atoms closer than this cost qhull, and so the peer, digits that show (from about 1e-5 Å).
CROWDED = 1e-4
N_FEATURES = 61


def _columns() -> tuple[np.ndarray, np.ndarray]:
    """Find the column of the weight of each coordination number, and of its order parameters."""
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


class Structures(NamedTuple):
    """Packed structures.

    Attributes:
        lattices: (B, 3, 3) in Å, rows are lattice vectors. frac: (N, 3). z: (N,) atomic numbers.
        offsets: (B + 1,) first site of each structure.
        skip: (B,) structures to leave alone.
    """

    lattices: np.ndarray
    frac: np.ndarray
    z: np.ndarray
    offsets: np.ndarray
    skip: np.ndarray


class Outcome(NamedTuple):
    """Results of `site_fingerprints`.

    Attributes:
        numbers: (N, 61), NaN where the cell stays open or the structure fails.
        status, bad_site: (B,) what went wrong (0: nothing) and at which site.
        crowded: (B,) whether some atoms are closer than CROWDED.
        n_open: (N,) for how many search radii the cell of the site was open, or UNCERTAIN.
        doubt: (N,) how far the number for a cube of neighbours can move up or down with the order
            of neighbours of equal weight.
    """

    numbers: np.ndarray
    status: np.ndarray
    bad_site: np.ndarray
    crowded: np.ndarray
    n_open: np.ndarray
    doubt: np.ndarray


class Weights(NamedTuple):
    """Neighbours of a site and their weights, in work arrays for m faces.

    Attributes:
        share: (m,) weight of each face. thousandths: (m,) the same rounded.
        order: (m,) faces by falling weight.
    """

    share: np.ndarray
    thousandths: np.ndarray
    order: np.ndarray


@njit(nogil=True, cache=True, fastmath=False)
def make_weights(size):
    """Make work arrays for up to `size` faces."""
    return Weights(np.empty(size), np.empty(size), np.empty(size, dtype=np.int64))


@njit(nogil=True, cache=True, fastmath=False)
def _semicircle(x):
    """Compute the share of a quarter of the unit circle's area that lies between 0 and x."""
    if x == 1.0:
        return 1.0
    root = math.sqrt(1.0 - x * x)
    return 0.5 * (x * root + math.atan(x / root)) / (0.25 * math.pi)


@njit(nogil=True, cache=True, fastmath=False)
def _sort_down(key, order, n):
    """Sort `order` by falling key; stable, by insertion."""
    for i in range(1, n):
        item = order[i]
        k = i - 1
        while k >= 0 and key[order[k]] < key[item]:
            order[k + 1] = order[k]
            k -= 1
        order[k + 1] = item


@njit(nogil=True, cache=True, fastmath=False)
def neighbour_weights(z, site, n_faces, cell, electronegativity, radius, weights):
    """Compute CrystalNN's weight of each Voronoi neighbour.

    The weight is the solid angle of the face, times solid angle over area (the correction for
    porous and layered crystals), times a factor for the difference in electronegativity; scaled to
    1 for the largest; then times a factor that falls from 1 to 0 while the distance goes from 0.5 Å
    to 1 Å more than the sum of the radii.

    Args:
        z: (n,) atomic numbers of the structure. site: index of the site.
        cell: Cell with measured faces.
        electronegativity, radius: (119,) by atomic number, NaN where unknown.
        weights: Weights, filled.

    Returns:
        (status, number of neighbours whose weight does not round to 0)
    """
    share, order, atoms = weights.share, weights.order, cell.atoms
    count = 0
    best = 0.0
    x1 = electronegativity[z[site]]
    r1 = radius[z[site]]
    for f in range(n_faces):
        if cell.solid[f] <= 0.0 or cell.area[f] <= 0.0:
            continue
        w = cell.solid[f] * (cell.solid[f] / cell.area[f])
        other = z[int(atoms[f, 4])]
        x2 = electronegativity[other]
        if not (math.isnan(x1) or math.isnan(x2)):
            w *= 1.0 + X_DIFF_WEIGHT * math.sqrt(abs(x1 - x2) / MAX_X_DIFF)
        if math.isnan(r1) or math.isnan(radius[other]):
            return NO_RADIUS, 0
        share[f] = w
        order[count] = f
        count += 1
        best = max(best, w)
    for i in range(count):
        f = order[i]
        w = share[f] / best
        low = r1 + radius[z[int(atoms[f, 4])]] + DISTANCE_LOW
        high = r1 + radius[z[int(atoms[f, 4])]] + DISTANCE_HIGH
        d = atoms[f, 3]
        if d >= high:
            w = 0.0
        elif d > low:
            w *= (math.cos((d - low) / (high - low) * math.pi) + 1.0) * 0.5
        share[f] = w
    _sort_down(share, order, count)
    kept = 0
    for i in range(count):
        f = order[i]
        weights.thousandths[f] = np.rint(share[f] * 1000.0)
        if weights.thousandths[f] > 0.0:
            kept = i + 1
    return OK, kept


@njit(nogil=True, cache=True, fastmath=False)
def site_numbers(count, weights, atoms, table, near, out):
    """Compute the 61 numbers of one site.

    Each distinct weight ends a shell: the neighbours down to it are one possible coordination, its
    likelihood the part of a quarter circle between this weight and the next lower one.

    Args:
        count: number of neighbours. weights: Weights. atoms: (m, 5), see Cell.
        table: MOTIF_TABLE. near: Directions, scratch.
        out: (61,) filled.

    Returns:
        How far the number for a cube of neighbours can move up or down with the order of neighbours
        of equal weight.
    """
    out[:] = 0.0
    doubt = 0.0
    order, thousandths = weights.order, weights.thousandths
    have_pairs = False
    i = 0
    while i < count:
        value = thousandths[order[i]]
        while i < count and thousandths[order[i]] == value:
            i += 1
        following = thousandths[order[i]] if i < count else 0.0
        likelihood = _semicircle(value / 1000.0) - _semicircle(following / 1000.0)
        if i > MAX_CN:
            break
        out[WEIGHT_COLUMN[i]] = likelihood
        if i > MAX_NEIGHBOURS:
            continue
        if not have_pairs:
            n = min(count, MAX_NEIGHBOURS)
            for k in range(n):
                atom = atoms[order[k]]
                for c in range(3):
                    near.unit[k, c] = atom[c] / atom[3]
                near.share[k] = weights.share[order[k]]
            pair_geometry(near, n)
            have_pairs = True
        for place in range(_op.MOTIF_COUNT[i]):
            if table[i, place, 0] == BCC:
                number, spread = body_centred(i, place, table, near)
                doubt = likelihood * spread
            else:
                number = motif_value(i, place, table, near)
            out[MOTIF_COLUMN[i, place]] = likelihood * number
    return doubt


@njit(nogil=True, cache=True, fastmath=False)
def site_fingerprints(structures, electronegativity, radius, table, size, outcome):
    """Compute the fingerprints of the sites of some structures, each structure by itself.

    Args:
        structures: Structures.
        electronegativity, radius: (119,) by atomic number.
        table: MOTIF_TABLE.
        size: of the work arrays; doubled when a site needs more.
        outcome: Outcome, filled: numbers come as NaN, all else as 0.
    """
    found = make_neighbourhood(size)
    cell = make_cell(size)
    weights = make_weights(size)
    near = make_directions()
    for b in range(len(structures.lattices)):
        if structures.skip[b]:
            continue
        first, end = structures.offsets[b], structures.offsets[b + 1]
        crystal = make_crystal(structures.lattices[b], structures.frac[first:end])
        z = structures.z[first:end]
        for site in range(len(z)):
            state, n_corners, n_planes, nearest, n_open = build_cell(
                crystal, site, SEARCH_CUTOFF, found, cell
            )
            while state == OVERFLOW and size < MAX_SPHERE_ATOMS:
                size *= 2
                found = make_neighbourhood(size)
                cell = make_cell(size)
                weights = make_weights(size)
                state, n_corners, n_planes, nearest, n_open = build_cell(
                    crystal, site, SEARCH_CUTOFF, found, cell
                )
            if state == OVERFLOW:
                state = TOO_DENSE
            outcome.n_open[first + site] = n_open
            if nearest < CROWDED:
                outcome.crowded[b] = True
            if state == OK:
                measure_faces(cell, n_corners, n_planes)
                state, count = neighbour_weights(
                    z, site, n_planes - 6, cell, electronegativity, radius, weights
                )
            if state == OK:
                outcome.doubt[first + site] = site_numbers(
                    count, weights, cell.atoms, table, near, outcome.numbers[first + site]
                )
            elif state != OPEN_CELL:  # an open cell is left to the caller
                outcome.status[b] = state
                outcome.bad_site[b] = site
                break
