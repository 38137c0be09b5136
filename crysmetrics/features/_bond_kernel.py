"""Compiled search of bonds: the neighbours that CrystalNN with plain solid angles would count."""

from __future__ import annotations

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.features._crystalnn_kernel import (
    SEARCH_CUTOFF,
    _semicircle,
    _sort_down,
    make_weights,
)
from crysmetrics.features._lattice_points import make_crystal, make_neighbourhood
from crysmetrics.features._voronoi import (
    MAX_SPHERE_ATOMS,
    OK,
    OVERFLOW,
    TOO_DENSE,
    build_cell,
    make_cell,
    measure_faces,
)


@njit(nogil=True, cache=True, fastmath=False)
def likeliest_neighbours(n_faces, cell, weights):
    """Count the neighbours of the likeliest coordination of a site.

    A face weighs its solid angle, as a share of the largest one, rounded to thousandths. Every
    distinct weight ends a shell; the likelihood of the shells down to it is the part of a quarter
    circle between this weight and the next lower one.

    Args:
        n_faces: of the site's Voronoi cell. cell: Cell with measured faces.
        weights: Weights, filled; the first neighbours in `weights.order` are those counted.

    Returns:
        Their number; 0 where no coordination is likelier than none.
    """
    share, order, thousandths = weights.share, weights.order, weights.thousandths
    count = 0
    best = 0.0
    for f in range(n_faces):
        if cell.solid[f] > 0.0:
            share[f] = cell.solid[f]
            best = max(best, share[f])
            order[count] = f
            count += 1
    for i in range(count):
        share[order[i]] /= best
    _sort_down(share, order, count)
    for i in range(count):
        thousandths[order[i]] = np.rint(share[order[i]] * 1000.0)
    chosen = 0
    likeliest = 0.0
    total = 0.0
    i = 0
    while i < count and thousandths[order[i]] > 0.0:
        value = thousandths[order[i]]
        while i < count and thousandths[order[i]] == value:
            i += 1
        following = thousandths[order[i]] if i < count else 0.0
        likelihood = _semicircle(value / 1000.0) - _semicircle(following / 1000.0)
        total += likelihood
        if likelihood > likeliest:
            chosen, likeliest = i, likelihood
    return 0 if 1.0 - total > likeliest else chosen


@njit(nogil=True, cache=True, fastmath=False)
def site_bonds(structures, size, room, status, bad_site):
    """Find the bonds of every site of some structures, each structure by itself.

    Args:
        structures: Structures.
        size: of the work arrays; doubled when a site needs more.
        room: bonds that the result holds to begin with; doubled likewise.
        status, bad_site: (B,) filled where a structure fails; status comes as 0.

    Returns:
        ends (m, 2): the site and its neighbour, counted within all structures;
        vectors (m, 3): from the first to the second in Å. Those of failed structures are left out.
    """
    found = make_neighbourhood(size)
    cell = make_cell(size)
    weights = make_weights(size)
    ends = np.empty((room, 2), dtype=np.int64)
    vectors = np.empty((room, 3))
    total = 0
    for b in range(len(structures.lattices)):
        if structures.skip[b]:
            continue
        first, end = structures.offsets[b], structures.offsets[b + 1]
        crystal = make_crystal(structures.lattices[b], structures.frac[first:end])
        start = total
        for site in range(end - first):
            state, n_corners, n_planes, _, _ = build_cell(crystal, site, SEARCH_CUTOFF, found, cell)
            while state == OVERFLOW and size < MAX_SPHERE_ATOMS:
                size *= 2
                found = make_neighbourhood(size)
                cell = make_cell(size)
                weights = make_weights(size)
                state, n_corners, n_planes, _, _ = build_cell(
                    crystal, site, SEARCH_CUTOFF, found, cell
                )
            if state != OK:
                status[b] = TOO_DENSE if state == OVERFLOW else state
                bad_site[b] = site
                total = start
                break
            measure_faces(cell, n_corners, n_planes)
            count = likeliest_neighbours(n_planes - 6, cell, weights)
            while total + count > room:
                room *= 2
                more_ends = np.empty((room, 2), dtype=np.int64)
                more_vectors = np.empty((room, 3))
                more_ends[:total] = ends[:total]
                more_vectors[:total] = vectors[:total]
                ends, vectors = more_ends, more_vectors
            for i in range(count):
                atom = cell.atoms[weights.order[i]]
                ends[total, 0] = first + site
                ends[total, 1] = first + int(atom[4])
                for c in range(3):
                    vectors[total, c] = atom[c]
                total += 1
    return ends[:total], vectors[:total]
