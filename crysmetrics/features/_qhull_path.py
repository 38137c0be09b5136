"""The fingerprint of one site by the peer's own path: qhull, and the same sums in the same order.

A few sites have numbers that rounding decides in the peer:

- The order parameter of a cube of neighbours (CN 8) depends on the order of the neighbours. They
  are sorted by weight, so that the order of symmetry-equivalent ones is decided by the last bits of
  weights computed from qhull's Voronoi vertices, and then by the order of qhull's output.
- Where atoms (nearly) coincide, qhull leaves one out or loses most digits.
- Next to a gap wider than the search radius the cell is open in a single direction, the normal of
  the layer, and it depends on rounding whether qhull finds that or a corner 10^15 Å away.

For those sites this module follows the peer to the bit: the same points in the same order to qhull,
the same arithmetic on what comes back. That takes milliseconds per site, but only some sites of
symmetric crystals need it (about 1 % in MP-20; none when coordinates are off symmetry).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import QhullError, Voronoi

from crysmetrics.compiled import njit
from crysmetrics.features._crystalnn_kernel import (
    DISTANCE_HIGH,
    DISTANCE_LOW,
    MAX_X_DIFF,
    N_FEATURES,
    SEARCH_CUTOFF,
    X_DIFF_WEIGHT,
    make_weights,
    site_numbers,
)
from crysmetrics.features._element_data import COVALENT_RADIUS, ELECTRONEGATIVITY
from crysmetrics.features._lattice_points import longest_diagonal
from crysmetrics.features._numeric import inner, norm
from crysmetrics.features._order_parameters import MOTIF_TABLE, make_directions

Array = NDArray[np.float64]

_POINT_TOLERANCE = 1e-8  # of pymatgen's neighbour search


# Most points that are looked through, and that are given to qhull; crystals stay far below, and a
# cell that was squeezed to nothing must not take minutes.
_MAX_POINTS = 1_000_000
_MAX_QHULL_POINTS = 10_000


class PeerError(Exception):
    """The peer raises an exception for this site."""


def peer_site(
    lattice: Array, frac: Array, z: NDArray[np.int64], site: int, max_radii: int
) -> Array | None:
    """Compute the 61 numbers of a site.

    Args:
        lattice: (3, 3) in Å. frac: (n, 3). z: (n,) atomic numbers. site: index.
        max_radii: number of search radii to try before giving up.

    Returns:
        (61,); None if the cell is open for those radii, or there are too many atoms around to do it
        this way.

    Raises:
        PeerError: where the peer raises an exception.
    """
    last_cutoff = longest_diagonal(lattice) + 0.01
    cutoff = SEARCH_CUTOFF
    for _ in range(max_radii):
        found = _points_in_sphere(lattice, frac, site, cutoff)
        if found is None:
            return None
        points, owners = found
        faces = _faces_of_first(points)
        if faces is not None:
            break
        if cutoff >= last_cutoff:
            raise PeerError("its Voronoi cell is open")
        cutoff = min(cutoff * 2, last_cutoff + 0.001)
    else:
        return None
    others, solid, volume = faces
    if len(others) == 0:
        raise PeerError("qhull finds no face of its Voronoi cell")
    z_others = z[owners[others]]
    if np.isnan(COVALENT_RADIUS[z[site]] + COVALENT_RADIUS[z_others]).any():
        raise PeerError("an element has no covalent radius")
    order, weight = _weights(solid, volume, points[0], points[others], z_others, int(z[site]))
    return _numbers(points[others] - points[0], order, weight)


def _faces_of_first(points: Array) -> tuple[NDArray[np.int64], Array, Array] | None:
    """Find the faces of the first point's Voronoi cell, in qhull's order.

    Returns:
        For each face the index of the point behind it, its solid angle, and the volume of the cone
        from the first point to it; None if the cell is open or qhull fails.
    """
    try:
        voronoi = Voronoi(points)
    except QhullError:
        return None
    pairs = voronoi.ridge_points
    ridges = np.flatnonzero((pairs == 0).any(axis=1))
    rims = [voronoi.ridge_vertices[r] for r in ridges]
    if any(-1 in rim for rim in rims):
        return None
    others = pairs[ridges].sum(axis=1).astype(np.int64)
    if len(rims) == 0:
        return others, np.zeros(0), np.zeros(0)
    starts = np.concatenate(([0], np.cumsum([len(rim) for rim in rims])))
    corners = np.ascontiguousarray(voronoi.vertices[np.concatenate(rims)])
    triple, under, volume = _triangles(corners, starts, points[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        # numpy's arctan, not the one of the C library: they may differ in the last bit
        angle = np.arctan(triple / under)
    angle = np.where(under == 0, np.where(triple > 0, 0.5, -0.5) * math.pi, angle)
    return others, _sum_angles(angle, starts), volume


def _points_in_sphere(
    lattice: Array, frac: Array, site: int, radius: float
) -> tuple[Array, NDArray[np.int64]] | None:
    """Find points around a site, by distance, in the order of pymatgen's ``get_sites_in_sphere``.

    That search wraps the atoms into the cell, goes through the images, sorts the points into 27
    boxes, each a last-in-first-out list, and keeps those within the sphere. All that is followed
    because the sort by distance leaves equal ones as they were.

    Returns:
        (m, 3) Cartesian coordinates, the site itself first, and (m,) indices of the atoms;
        None if that takes too many points.
    """
    cart = np.dot(frac, lattice)
    center = np.dot(frac[site], lattice)
    inverse = _cofactor_inverse(lattice)
    home = _times(cart, inverse)
    wrapped = home - np.floor(home)
    shift = home - wrapped
    in_cell = _times(wrapped, lattice)
    low, high = _image_range(lattice, _times(center[None], inverse)[0], radius)
    if len(frac) * float(np.prod(high - low)) > _MAX_POINTS:
        return None
    axes = [np.arange(a, b, dtype=np.float64) for a, b in zip(low, high, strict=True)]
    images = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    moved = _times(images, lattice)[:, None, :] + in_cell[None, :, :]
    box_low = center - radius - _POINT_TOLERANCE
    box_high = center + radius + _POINT_TOLERANCE
    image, atom = np.nonzero(((moved > box_low) & (moved < box_high)).all(axis=2))
    points = moved[image, atom]
    box = np.floor((points - box_low + 1e-8) / radius)
    difference = points - center
    square = difference * difference
    dist2 = square[:, 0] + square[:, 1] + square[:, 2]
    visit = np.lexsort((-np.arange(len(points)), box[:, 2], box[:, 1], box[:, 0]))
    visit = visit[dist2[visit] < radius * radius + _POINT_TOLERANCE]
    if len(visit) > _MAX_QHULL_POINTS:
        return None
    visit = visit[np.argsort(np.sqrt(dist2[visit]), kind="stable")]
    fractional = frac[atom[visit]] + (images[image[visit]] - shift[atom[visit]])
    # Point by point, as the peer does it.
    return np.array([np.dot(f, lattice) for f in fractional]), atom[visit]


def _times(a: Array, m: Array) -> Array:
    """Multiply (n, 3) by (3, 3) without fused multiply-adds, from left to right."""
    return a[:, :1] * m[0] + a[:, 1:2] * m[1] + a[:, 2:] * m[2]


def _cross(a: Array, b: Array) -> Array:
    return np.array(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


def _cofactor_inverse(m: Array) -> Array:
    """Invert a 3x3 matrix by cofactors, each product in pymatgen's sequence."""
    columns = [_cross(m[1], m[2]), _cross(m[2], m[0]), _cross(m[0], m[1])]
    c = columns[0]
    # m01 * (m12 m20 - m10 m22) and so on: the first row of the cofactors
    scale = 1.0 / (m[0, 0] * c[0] + m[0, 1] * c[1] + m[0, 2] * c[2])
    return np.stack(columns, axis=1) * scale


def _image_range(lattice: Array, center: Array, radius: float) -> tuple[Array, Array]:
    """Find the first and one past the last image along each axis."""
    repeats = np.empty(3)
    for k in range(3):
        a, b, c = lattice[k], lattice[(k + 1) % 3], lattice[(k + 2) % 3]
        cross = _cross(b, c)
        volume = a[0] * cross[0] + a[1] * cross[1] + a[2] * cross[2]
        r = 2 * math.pi * cross / volume
        length = math.sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2])
        repeats[k] = math.ceil((radius + 0.15) * length / (2 * math.pi))
    return np.floor(center - repeats - 1e-8), np.ceil(center + repeats + 1e-8)


@njit(nogil=True, cache=True, fastmath=False)
def _triangles(corners, starts, center):
    """Compute solid angle and volume parts of each face, rounding as numpy's dot and cross do.

    Args:
        corners: (c, 3) of all faces, rim after rim; starts: (faces + 1,). center: (3,).

    Returns:
        triple, under: (c,) numerator and denominator of the tangent of half the solid angle of the
            triangle that starts at this corner (0 and 1 where none does).
        volume: (faces,)
    """
    count = len(corners)
    triple = np.zeros(count)
    under = np.ones(count)
    volume = np.zeros(len(starts) - 1)
    for f in range(len(starts) - 1):
        s = starts[f]
        ax, ay, az = (
            corners[s, 0] - center[0], corners[s, 1] - center[1], corners[s, 2] - center[2]
        )  # fmt: skip
        ra = norm(ax, ay, az)
        for i in range(s + 1, starts[f + 1] - 1):
            p, q = corners[i], corners[i + 1]
            bx, by, bz = p[0] - center[0], p[1] - center[1], p[2] - center[2]
            cx, cy, cz = q[0] - center[0], q[1] - center[1], q[2] - center[2]
            rb, rc = norm(bx, by, bz), norm(cx, cy, cz)
            triple[i] = abs(
                inner(ax, ay, az, by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx)
            )
            under[i] = (
                ra * rb * rc
                + rc * inner(ax, ay, az, bx, by, bz)
                + rb * inner(ax, ay, az, cx, cy, cz)
                + ra * inner(bx, by, bz, cx, cy, cz)
            )
            # Tetrahedron of the site and the triangle, seen from the triangle's last corner.
            ux, uy, uz = center[0] - q[0], center[1] - q[1], center[2] - q[2]
            vx, vy, vz = corners[s, 0] - q[0], corners[s, 1] - q[1], corners[s, 2] - q[2]
            wx, wy, wz = p[0] - q[0], p[1] - q[1], p[2] - q[2]
            volume[f] += (
                abs(inner(ux, uy, uz, vy * wz - vz * wy, vz * wx - vx * wz, vx * wy - vy * wx)) / 6
            )
    return triple, under, volume


@njit(nogil=True, cache=True, fastmath=False)
def _sum_angles(angle, starts):
    solid = np.zeros(len(starts) - 1)
    for f in range(len(solid)):
        for i in range(starts[f] + 1, starts[f + 1] - 1):
            solid[f] += (angle[i] if angle[i] > 0.0 else angle[i] + math.pi) * 2
    return solid


def _weights(
    solid: Array,
    volume: Array,
    center: Array,
    others: Array,
    z_others: NDArray[np.int64],
    z_site: int,
) -> tuple[NDArray[np.int64], Array]:
    """Compute CrystalNN's weights of the faces, each step as in the peer (see `neighbour_weights`).

    Returns:
        Indices of the faces by falling weight, and the weight of every face in thousandths.
    """
    dist = np.array([np.linalg.norm(center - p) for p in others])
    with np.errstate(all="ignore"):
        weight = solid / solid.max()
        weight *= solid / (3 * volume / (dist / 2))
        x1, x2 = ELECTRONEGATIVITY[z_site], ELECTRONEGATIVITY[z_others]
        chemical = 1 + X_DIFF_WEIGHT * np.sqrt(np.abs(x1 - x2) / MAX_X_DIFF)
        weight *= np.where(np.isnan(chemical), 1.0, chemical)
        # Python's sort, which also fixes what becomes of weights that are not numbers.
        order = sorted(range(len(weight)), key=weight.tolist().__getitem__, reverse=True)
        weight /= weight[order[0]]
    diameter = COVALENT_RADIUS[z_site] + COVALENT_RADIUS[z_others]
    low, high = diameter + DISTANCE_LOW, diameter + DISTANCE_HIGH
    for f, d in enumerate(dist):
        if d >= high[f]:
            weight[f] *= 0.0
        elif d > low[f]:
            weight[f] *= (math.cos((d - low[f]) / (high[f] - low[f]) * math.pi) + 1) * 0.5
    order = sorted(order, key=weight.tolist().__getitem__, reverse=True)
    return np.array(order, dtype=np.int64), np.rint(weight * 1000.0)


def _numbers(vectors: Array, order: NDArray[np.int64], weight: Array) -> Array:
    """Compute the numbers from neighbours in the given order; vectors (faces, 3) in Å."""
    atoms = np.zeros((len(vectors), 5))
    atoms[:, :3] = vectors
    atoms[:, 3] = [np.linalg.norm(v) for v in vectors]
    order = order[weight[order] > 0.0]
    weights = make_weights(len(vectors))
    weights.thousandths[:] = weight
    weights.order[: len(order)] = order
    # No two shares are equal: the order stands as it is.
    weights.share[order] = np.arange(len(order), 0.0, -1.0)
    out = np.empty(N_FEATURES)
    site_numbers(len(order), weights, atoms, MOTIF_TABLE, make_directions(), out)
    return out
