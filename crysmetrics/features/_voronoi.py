"""Voronoi cells of single sites in periodic crystals, by cutting with bisector planes.

The cell of one site starts as a large cube and is cut by the plane half way to each atom, nearest
atom first. It is finished as soon as every atom not yet seen is more than twice as far away as the
cell's farthest corner: some dozens of planes, whatever the number of atoms in the crystal.

The cell is kept as a *simple* polyhedron: every corner lies on exactly three planes. Where more
planes meet (all symmetric crystals), several corners coincide. That keeps the topology exact: the
corner positions only decide which corners a new plane removes.

All lengths are in ångström. Kernels are compiled by numba, release the GIL and keep no state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.features._lattice_points import find_atoms, make_heap, take_nearest
from crysmetrics.features._numeric import norm

# Status of a site; shared with the callers.
OK = 0
OVERFLOW = 1  # the work arrays are too small: double them and do the site again
OPEN_CELL = 2  # the atoms within the largest radius the peer tries do not close the cell
TOO_DENSE = 3  # too many atoms within the search radius for any sensible crystal
TANGLED = 4  # rounding errors left the cell inconsistent at every tolerance tried
_NEEDS_LARGE_CUBE = 5

# Atoms within this distance of a site are taken for the site itself (qhull, too, builds the cell as
# if the second one were absent).
COINCIDENT = 1e-11
# A corner that sticks out of a plane by less than this stays (see `_cut`); larger ones are tried
# where that leads nowhere.
CUT_TOLERANCE = 1e-11
CUT_TOLERANCE_MAX = 1e-5
# Half edge of the starting cube: the small one loses no digits, the large one is for cells that
# reach farther, and to tell those from cells that are open.
CUBE_SMALL = 64.0
CUBE_LARGE = 1e5
# A cell with a corner farther out than this may be open or closed to qhull.
FAR_CORNER = 1e3
UNCERTAIN = 99
# pymatgen keeps points with d**2 < r**2 + 1e-8.
RADIUS2_SLACK = 1e-8
# Aimed number of atoms in the first shell taken from the periodic neighbourhood.
FIRST_SHELL_ATOMS = 30.0
# Most atoms around a site that are still enumerated (crystals stay below some thousands).
MAX_SPHERE_ATOMS = 500_000


class Cell(NamedTuple):
    """A polyhedron around a site and what made it, in work arrays for m corners or planes.

    Attributes:
        pos: (m, 3) corners, relative to the site.
        planes: (m, 3) the three planes of each corner; planes 0 to 5 are those of the starting
            cube, plane k + 6 is the one half way to atom k.
        links: (m, 3) the corners at the far end of its three edges; edge k is the one *not* on its
            plane k.
        side: (m,) scratch.
        ends: (m,) scratch by plane; -1 outside `_cut`.
        heads: (m,) scratch by plane.
        atoms: (m, 5) of the atom behind each plane (from plane 6 on): vector from the site,
            distance, index in the structure.
        solid, area: (m,) solid angle in sr and area in Å^2 of the face to each atom, 0 without one.
    """

    pos: np.ndarray
    planes: np.ndarray
    links: np.ndarray
    side: np.ndarray
    ends: np.ndarray
    heads: np.ndarray
    atoms: np.ndarray
    solid: np.ndarray
    area: np.ndarray


@njit(nogil=True, cache=True, fastmath=False)
def make_cell(size):
    """Make work arrays for up to `size` corners or planes."""
    return Cell(
        np.empty((size, 3)),
        np.empty((size, 3), dtype=np.int64),
        np.empty((size, 3), dtype=np.int64),
        np.empty(size),
        np.full(size, -1, dtype=np.int64),
        np.empty(size, dtype=np.int64),
        np.empty((size, 5)),
        np.empty(size),
        np.empty(size),
    )


@njit(nogil=True, cache=True, fastmath=False)
def build_cell(crystal, site, cutoff, near, cell):
    """Build the Voronoi cell of one site, from the same atoms as the peer.

    The peer (pymatgen ``VoronoiNN.get_voronoi_polyhedra``) takes the atoms within `cutoff`; while
    the cell is not closed by them it doubles the radius, up to the cell's longest diagonal.

    Args:
        crystal: Crystal. near, cell: Neighbourhood and Cell, filled.

    Returns:
        (status, number of corners, number of planes, distance of the nearest atom, number of radii
        for which the cell was open or UNCERTAIN)
    """
    eps = CUT_TOLERANCE
    half = CUBE_SMALL
    while eps <= CUT_TOLERANCE_MAX:
        status, n, n_planes, nearest, n_open = _try_cell(
            crystal, site, cutoff, near, cell, half, eps
        )
        if status == _NEEDS_LARGE_CUBE:
            half = CUBE_LARGE
        elif status == TANGLED:
            cell.ends[:] = -1
            eps *= 100.0
        else:
            return status, n, n_planes, nearest, n_open
    return TANGLED, 0, 0, np.inf, 0


@njit(nogil=True, cache=True, fastmath=False)
def _try_cell(crystal, site, cutoff, near, cell, half, eps):
    """Run `build_cell` with a given half edge of the starting cube and tolerance."""
    sphere = 4.0 / 3.0 * math.pi * crystal.density  # atoms within 1 Å
    last_cutoff = crystal.diagonal + 0.01
    n, n_planes = _start_cube(half, cell)
    reach = cutoff  # the peer's radius; atoms are fetched shell by shell up to it
    radius = min((FIRST_SHELL_ATOMS / sphere) ** (1.0 / 3.0), reach)
    seen2 = 0.0
    far2 = np.inf  # squared distance of the farthest corner
    nearest = np.inf
    n_open = 0
    while True:
        if sphere * radius**3 > MAX_SPHERE_ATOMS:
            return TOO_DENSE, 0, 0, nearest, n_open
        hi2 = radius * radius
        if radius == reach:
            hi2 += RADIUS2_SLACK
        left = find_atoms(crystal, site, seen2, hi2, near)
        if left < 0:
            return OVERFLOW, 0, 0, nearest, n_open
        make_heap(near, left)
        while left > 0:
            k = take_nearest(near, left)
            left -= 1
            nearest = min(nearest, math.sqrt(near.dist2[k]))
            if near.dist2[k] <= COINCIDENT**2:
                continue
            if near.dist2[k] >= 4.0 * far2:
                break
            if 5 * n // 2 + 8 > len(cell.pos) or n_planes >= len(cell.ends):
                return OVERFLOW, 0, 0, nearest, n_open
            x, y, z = near.vector[k, 0], near.vector[k, 1], near.vector[k, 2]
            d = norm(x, y, z)
            n_new = _cut(cell, n, x / d, y / d, z / d, 0.5 * d, n_planes, eps)
            if n_new < 0:
                return TANGLED, 0, 0, nearest, n_open
            if n_new == 0:
                continue
            n = n_new
            atom = cell.atoms[n_planes - 6]
            atom[0], atom[1], atom[2], atom[3], atom[4] = x, y, z, d, near.owner[k]
            n_planes += 1
            far2 = 0.0
            for v in range(n):
                p = cell.pos[v]
                far2 = max(far2, p[0] * p[0] + p[1] * p[1] + p[2] * p[2])
        if hi2 >= 4.0 * far2:
            break
        seen2 = hi2
        if radius == reach:
            if not _touches_cube(cell.planes, n):
                break
            if half < CUBE_LARGE:
                return _NEEDS_LARGE_CUBE, 0, 0, nearest, n_open
            if reach >= last_cutoff:
                return OPEN_CELL, n, n_planes, nearest, UNCERTAIN
            n_open += 1
            reach = min(reach * 2.0, last_cutoff + 0.001)
        radius = min(radius * 1.3, reach)
    return OK, n, n_planes, nearest, UNCERTAIN if far2 > FAR_CORNER**2 else n_open


@njit(nogil=True, cache=True, fastmath=False)
def _touches_cube(planes, n):
    """Tell whether any of the starting cube is left."""
    for v in range(n):
        for c in range(3):
            if planes[v, c] < 6:
                return True
    return False


@njit(nogil=True, cache=True, fastmath=False)
def _start_cube(half, cell):
    """Make a cube of given half edge; its planes are 0 to 5 (-x, +x, -y, +y, -z, +z).

    Returns:
        Numbers of corners and planes.
    """
    for v in range(8):
        for axis in range(3):
            up = (v >> axis) & 1
            cell.pos[v, axis] = half if up else -half
            cell.planes[v, axis] = 2 * axis + up
            cell.links[v, axis] = v ^ (1 << axis)
    return 8, 6


@njit(nogil=True, cache=True, fastmath=False)
def _cut(cell, n, nx, ny, nz, h, new_plane, eps):
    """Cut the polyhedron by the half space ``x * normal <= h``.

    Corners that stick out by no more than `eps` stay: exact ties (a plane through an edge or corner
    of the cell, the rule in symmetric crystals) then leave the topology alone, where rounding would
    otherwise decide it corner by corner. The cut-off left standing is thinner than `eps`.

    Args:
        cell: Cell. n: its number of corners.

    Returns:
        New number of corners; 0 when nothing sticks out; -1 if the corners that stick out do
        not form one connected patch (rounding), when the polyhedron is left spoilt.
    """
    pos, planes, links, side, ends = cell.pos, cell.planes, cell.links, cell.side, cell.ends
    removed = 0
    for v in range(n):
        s = pos[v, 0] * nx + pos[v, 1] * ny + pos[v, 2] * nz - h
        side[v] = s
        if s > eps:
            removed += 1
    if removed == 0:
        return 0
    if removed == n:
        return -1
    # One new corner on each edge that leads from a kept corner to a removed one.
    top = n
    for w in range(n):
        if side[w] <= eps:
            continue
        for k in range(3):
            u = links[w, k]
            if side[u] > eps:
                continue
            a = planes[w, (k + 1) % 3]
            b = planes[w, (k + 2) % 3]
            t = -side[u] / (side[w] - side[u])
            t = min(max(t, 0.0), 1.0)
            for c in range(3):
                pos[top, c] = pos[u, c] + t * (pos[w, c] - pos[u, c])
            planes[top, 0] = a
            planes[top, 1] = b
            planes[top, 2] = new_plane
            links[top, 2] = u
            links[top, 0] = -1
            links[top, 1] = -1
            for q in range(3):
                if links[u, q] == w and planes[u, q] != a and planes[u, q] != b:
                    links[u, q] = top
            # The two new corners on an old plane are the ends of its edge with the new plane.
            good = _join(links, planes, ends, a, top) and _join(links, planes, ends, b, top)
            if not good:
                return -1
            top += 1
    for v in range(n, top):
        ends[planes[v, 0]] = -1
        ends[planes[v, 1]] = -1
        if links[v, 0] < 0 or links[v, 1] < 0:
            return -1
    # They must form a single ring.
    ring, previous, current = 1, n, links[n, 0]
    while current != n:
        onward = links[current, 0]
        if onward == previous:
            onward = links[current, 1]
        previous, current = current, onward
        ring += 1
        if ring > top - n:
            return -1
    if ring != top - n:
        return -1
    return _compact(pos, planes, links, n, top, eps, side)


@njit(nogil=True, cache=True, fastmath=False)
def _join(links, planes, ends, plane, corner):
    """Note a new corner on an old plane; link it to the other one if that is known already."""
    other = ends[plane]
    if other == -1:
        ends[plane] = corner
        return True
    if other == -2:
        return False  # a third one: the plane is cut twice
    # The edge on `plane` and the new plane is opposite the corner's other old plane.
    links[corner, 1 if planes[corner, 0] == plane else 0] = other
    links[other, 1 if planes[other, 0] == plane else 0] = corner
    ends[plane] = -2
    return True


@njit(nogil=True, cache=True, fastmath=False)
def _compact(pos, planes, links, n, top, eps, side):
    """Move the kept corners to the front; returns their number. `side` holds their new places."""
    place = 0
    for v in range(top):
        if v < n and side[v] > eps:
            side[v] = -1.0
            continue
        side[v] = place
        if place != v:
            for c in range(3):
                pos[place, c] = pos[v, c]
                planes[place, c] = planes[v, c]
                links[place, c] = links[v, c]
        place += 1
    for v in range(place):
        for c in range(3):
            links[v, c] = int(side[links[v, c]])
    return place


@njit(nogil=True, cache=True, fastmath=False)
def measure_faces(cell, n, n_planes):
    """Measure the solid angle and area of each face, as seen from the site at the origin.

    A face is split into triangles from one of its corners; the solid angle of each is that of Van
    Oosterom & Strackee (1983), as in the peer.

    Args:
        cell: Cell with n corners and n_planes planes; its `solid` and `area` are filled.
    """
    pos, planes, links = cell.pos, cell.planes, cell.links
    first = cell.heads
    for p in range(n_planes):
        first[p] = -1
    for v in range(n):
        for c in range(3):
            first[planes[v, c]] = v
    for p in range(6, n_planes):
        cell.solid[p - 6] = 0.0
        cell.area[p - 6] = 0.0
        if first[p] < 0:
            continue
        a = first[p]
        b = _next_corner(planes, links, p, a, -1)
        c = _next_corner(planes, links, p, b, a)
        ax, ay, az = pos[a, 0], pos[a, 1], pos[a, 2]
        ra = math.sqrt(ax * ax + ay * ay + az * az)
        omega = 0.0
        six_volumes = 0.0
        while c != a:
            bx, by, bz = pos[b, 0], pos[b, 1], pos[b, 2]
            cx, cy, cz = pos[c, 0], pos[c, 1], pos[c, 2]
            rb = math.sqrt(bx * bx + by * by + bz * bz)
            rc = math.sqrt(cx * cx + cy * cy + cz * cz)
            triple = abs(
                ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
            )
            under = (
                ra * rb * rc
                + rc * (ax * bx + ay * by + az * bz)
                + rb * (ax * cx + ay * cy + az * cz)
                + ra * (bx * cx + by * cy + bz * cz)
            )
            if triple > 0.0:
                omega += 2.0 * math.atan2(triple, under)
            six_volumes += triple
            d = _next_corner(planes, links, p, c, b)
            b, c = c, d
        cell.solid[p - 6] = omega
        cell.area[p - 6] = six_volumes / cell.atoms[p - 6, 3]


@njit(nogil=True, cache=True, fastmath=False)
def _next_corner(planes, links, plane, corner, previous):
    """Find the corner after `corner` on the rim of a face, not going back to `previous`."""
    for c in range(3):
        if planes[corner, c] != plane and links[corner, c] != previous:
            return links[corner, c]
    return -1  # not reached: a face has at least three corners
