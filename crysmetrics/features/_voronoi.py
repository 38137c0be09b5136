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

import numpy as np
from numba import njit

from crysmetrics.features._numeric import cartesian, norm

# Status of a site; shared with the callers.
OK = 0
OVERFLOW = 1  # the work arrays are too small: double them and do the site again
OPEN_CELL = 2  # the atoms within the largest radius the peer tries do not close the cell
TOO_DENSE = 3  # too many atoms within the search radius for any sensible crystal
TANGLED = 4  # rounding errors left the cell inconsistent at every tolerance tried

# Atoms within this distance of a site are the site itself: qhull, too, merges points that coincide
# to rounding and builds the cell as if the second one were absent.
COINCIDENT = 1e-11
# A corner that sticks out of a plane by less than this stays (see `_cut`); retried with larger ones.
CUT_TOLERANCE = 1e-11
CUT_TOLERANCE_MAX = 1e-5
# Half edge of the starting cube: the small one loses no digits, the large one is for cells that
# reach farther, and to tell those from cells that are open.
CUBE_SMALL = 64.0
CUBE_LARGE = 1e5
# pymatgen keeps points with d**2 < r**2 + 1e-8.
RADIUS2_SLACK = 1e-8
# Aimed number of atoms in the first shell taken from the periodic neighbourhood.
FIRST_SHELL_ATOMS = 50.0
# Most atoms expected within the radius that are still enumerated.
MAX_SPHERE_ATOMS = 3e6


@njit(nogil=True, cache=True, fastmath=False)
def reduce_lattice(lattice):
    """Short basis of a lattice, for enumerating points in a sphere.

    Args:
        lattice: (3, 3), rows are the lattice vectors.

    Returns:
        transform (3, 3): integers (as floats); the rows of ``transform @ lattice`` are a basis whose
            vectors cannot be shortened by adding one to another.
        inverse (3, 3): its inverse; fractional coordinates in the short basis are
            ``frac @ inverse``.
        lower (3, 3): the short basis in rotated axes, lower triangular with a positive diagonal.
    """
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
    """Length of the longest body diagonal of the cell: the peer's bound on its search radius."""
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
def _shell(frac, short, lattice, transform, lower, site, lo2, hi2, rel, dist2, owner):
    """Atoms around a site with lo2 <= squared distance < hi2, periodic images included.

    Lines of lattice points that meet the sphere are walked in the short basis, so that the work is
    proportional to the number of atoms found, whatever the shape of the cell.

    Args:
        frac, short: (n, 3) fractional coordinates in the given and in the short basis.
        rel, dist2, owner: filled with vectors from the site, squared distances, site indices.

    Returns:
        Number of atoms found, or -1 if the arrays are too small.
    """
    count = 0
    capacity = len(dist2)
    radius2 = hi2 * (1.0 + 1e-9) + 1e-9  # never lose an atom to rounding; the exact test follows
    radius = math.sqrt(radius2)
    x0 = cartesian(frac[site, 0], frac[site, 1], frac[site, 2], lattice, 0)
    y0 = cartesian(frac[site, 0], frac[site, 1], frac[site, 2], lattice, 1)
    z0 = cartesian(frac[site, 0], frac[site, 1], frac[site, 2], lattice, 2)
    for j in range(frac.shape[0]):
        d0 = short[j, 0] - short[site, 0]
        d1 = short[j, 1] - short[site, 1]
        d2 = short[j, 2] - short[site, 2]
        reach2 = radius / lower[2, 2]
        for n2 in range(math.ceil(-reach2 - d2), math.floor(reach2 - d2) + 1):
            s2 = n2 + d2
            left = radius2 - (s2 * lower[2, 2]) ** 2
            if left < 0.0:
                continue
            reach1 = math.sqrt(left) / lower[1, 1]
            c1 = -d1 - s2 * lower[2, 1] / lower[1, 1]
            for n1 in range(math.ceil(c1 - reach1), math.floor(c1 + reach1) + 1):
                s1 = n1 + d1
                y = s1 * lower[1, 1] + s2 * lower[2, 1]
                rest = left - y * y
                if rest < 0.0:
                    continue
                reach0 = math.sqrt(rest) / lower[0, 0]
                c0 = -d0 - (s1 * lower[1, 0] + s2 * lower[2, 0]) / lower[0, 0]
                for n0 in range(math.ceil(c0 - reach0), math.floor(c0 + reach0) + 1):
                    # Shift in the given basis, then the coordinates the way the peer gets them.
                    g0 = frac[j, 0] + (
                        n0 * transform[0, 0] + n1 * transform[1, 0] + n2 * transform[2, 0]
                    )
                    g1 = frac[j, 1] + (
                        n0 * transform[0, 1] + n1 * transform[1, 1] + n2 * transform[2, 1]
                    )
                    g2 = frac[j, 2] + (
                        n0 * transform[0, 2] + n1 * transform[1, 2] + n2 * transform[2, 2]
                    )
                    x = cartesian(g0, g1, g2, lattice, 0) - x0
                    y = cartesian(g0, g1, g2, lattice, 1) - y0
                    z = cartesian(g0, g1, g2, lattice, 2) - z0
                    r2 = x * x + y * y + z * z
                    if r2 < lo2 or r2 >= hi2:
                        continue
                    if count == capacity:
                        return -1
                    rel[count, 0] = x
                    rel[count, 1] = y
                    rel[count, 2] = z
                    dist2[count] = r2
                    owner[count] = j
                    count += 1
    return count


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


@njit(nogil=True, cache=True, fastmath=False)
def _start_cube(half, pos, planes, links):
    """Corners of a cube of given half edge; its planes are 0 to 5 (-x, +x, -y, +y, -z, +z)."""
    for v in range(8):
        for axis in range(3):
            up = (v >> axis) & 1
            pos[v, axis] = half if up else -half
            planes[v, axis] = 2 * axis + up
            links[v, axis] = v ^ (1 << axis)
    return 8


@njit(nogil=True, cache=True, fastmath=False)
def _cut(pos, planes, links, n, nx, ny, nz, h, new_plane, eps, side, ends):
    """Cut the polyhedron by the half space ``x * normal <= h``.

    Corners that stick out by no more than `eps` stay: exact ties (a plane through an edge or corner
    of the cell, the rule in symmetric crystals) then leave the topology alone, where rounding would
    otherwise decide it corner by corner. The cut-off left standing is thinner than `eps`.

    Args:
        pos (m, 3), planes (m, 3), links (m, 3): corner positions, the three planes of each corner,
            and the corners at the far end of its three edges; edge k is the one *not* on plane k.
        n: number of corners.
        side (m,), ends: scratch; `ends` must be -1 for every plane and is left so.

    Returns:
        New number of corners; 0 when nothing sticks out; -1 if the corners that stick out do
        not form one connected patch (rounding), when the polyhedron is left spoilt.
    """
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
def build_cell(
    frac, short, lattice, transform, lower, volume, diagonal, site, cutoff,
    rel, dist2, owner, heap, pos, planes, links, side, ends, plane_atom,
):
    """Voronoi cell of one site, from the same atoms as the peer.

    The peer (pymatgen ``VoronoiNN.get_voronoi_polyhedra``) takes the atoms within `cutoff`; while
    the cell is not closed by them it doubles the radius, up to the cell's longest diagonal.

    Args:
        frac, short: (n, 3) fractional coordinates in the given and in the short basis.
        lattice, transform, lower: (3, 3), see `reduce_lattice`.
        volume, diagonal: of the cell, in Å^3 and Å.
        rel, dist2, owner, heap: work arrays for neighbours; afterwards they hold the last shell only.
        pos, planes, links, side: work arrays for corners.
        ends: work array for planes, all -1.
        plane_atom: (p, 5) float; row k gets vector to the atom behind plane k + 6, its distance and
            its site index.

    Returns:
        (status, number of corners, number of planes)
    """
    density = frac.shape[0] / volume
    first = (FIRST_SHELL_ATOMS / (density * 4.0 / 3.0 * math.pi)) ** (1.0 / 3.0)
    last_cutoff = diagonal + 0.01
    eps = CUT_TOLERANCE
    large = False
    while True:
        n = _start_cube(CUBE_LARGE if large else CUBE_SMALL, pos, planes, links)
        n_planes = 6
        reach = cutoff
        radius = min(first, reach)
        seen2 = COINCIDENT**2
        far2 = np.inf
        status = -1
        while status < 0:
            hi2 = radius * radius
            if radius == reach:
                hi2 += RADIUS2_SLACK
            if density * 4.0 / 3.0 * math.pi * radius**3 > MAX_SPHERE_ATOMS:
                return TOO_DENSE, 0, 0
            m = _shell(
                frac, short, lattice, transform, lower, site, seen2, hi2, rel, dist2, owner
            )
            if m < 0:
                return OVERFLOW, 0, 0
            for k in range(m):
                heap[k] = k
            for k in range(m // 2 - 1, -1, -1):
                _sift_down(heap, dist2, k, m)
            while m > 0:
                k = heap[0]
                m -= 1
                heap[0] = heap[m]
                _sift_down(heap, dist2, 0, m)
                if dist2[k] >= 4.0 * far2:
                    break
                if 5 * n // 2 + 8 > len(pos) or n_planes >= len(ends):
                    return OVERFLOW, 0, 0
                d = norm(rel[k, 0], rel[k, 1], rel[k, 2])
                new_n = _cut(
                    pos, planes, links, n, rel[k, 0] / d, rel[k, 1] / d, rel[k, 2] / d, 0.5 * d,
                    n_planes, eps, side, ends,
                )
                if new_n < 0:
                    status = TANGLED
                    break
                if new_n == 0:
                    continue
                n = new_n
                for c in range(3):
                    plane_atom[n_planes - 6, c] = rel[k, c]
                plane_atom[n_planes - 6, 3] = d
                plane_atom[n_planes - 6, 4] = owner[k]
                n_planes += 1
                far2 = 0.0
                for v in range(n):
                    far2 = max(far2, pos[v, 0] ** 2 + pos[v, 1] ** 2 + pos[v, 2] ** 2)
            if status == TANGLED:
                break
            if hi2 >= 4.0 * far2:
                status = OK
            elif radius < reach:
                seen2 = hi2
                radius = min(radius * 1.3, reach)
            elif not _touches_cube(planes, n):
                status = OK
            elif not large:
                break  # start again with the large cube
            elif reach >= last_cutoff:
                status = OPEN_CELL
            else:
                seen2 = hi2
                reach = min(reach * 2.0, last_cutoff + 0.001)
                radius = min(radius * 1.3, reach)
        if status == -1:
            large = True
            continue
        if status == TANGLED:
            for k in range(len(ends)):
                ends[k] = -1
            eps *= 100.0
            if eps > CUT_TOLERANCE_MAX:
                return TANGLED, 0, 0
            continue
        return status, n, n_planes


@njit(nogil=True, cache=True, fastmath=False)
def _touches_cube(planes, n):
    """Whether any of the starting cube is left."""
    for v in range(n):
        for c in range(3):
            if planes[v, c] < 6:
                return True
    return False


@njit(nogil=True, cache=True, fastmath=False)
def measure_faces(pos, planes, links, n, n_planes, plane_atom, first, solid, area):
    """Solid angle and area of each face, as seen from the site at the origin.

    A face is split into triangles from one of its corners; the solid angle of each is that of Van
    Oosterom & Strackee (1983), as in the peer.

    Args:
        first: work array (planes,).
        solid, area: filled for planes 6 and up (index minus 6), in sr and Å^2; 0 without a face.
    """
    for p in range(n_planes):
        first[p] = -1
    for v in range(n):
        for c in range(3):
            first[planes[v, c]] = v
    for p in range(6, n_planes):
        solid[p - 6] = 0.0
        area[p - 6] = 0.0
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
        solid[p - 6] = omega
        area[p - 6] = six_volumes / plane_atom[p - 6, 3]


@njit(nogil=True, cache=True, fastmath=False)
def _next_corner(planes, links, plane, corner, previous):
    """The corner after `corner` on the rim of a face, not going back to `previous`."""
    for c in range(3):
        if planes[corner, c] != plane and links[corner, c] != previous:
            return links[corner, c]
    return -1  # not reached: a face has at least three corners
