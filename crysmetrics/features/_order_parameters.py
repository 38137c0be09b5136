"""Local structure order parameters of one site from the directions to its neighbours.

These are the order parameters of the "ops" preset of matminer's ``CrystalNNFingerprint``: how much
the neighbours look like a tetrahedron, an octahedron, ... on a scale up to 1 (Zimmermann, Horton,
Jain & Haranczyk, Front. Mater. 4, 34, 2017; Zimmermann & Jain, RSC Adv. 10, 6063, 2020), and the
bond orientational order parameters q2, q4, q6 (Steinhardt, Nelson & Ronchetti, 1983), with the
parameters of pymatgen's ``LocalStructOrderParams``.

All but the last few have one form. Neighbour j is put at the north pole, neighbour k fixes the
prime meridian; the polar angles of k and of every other neighbour m are compared with target
angles by Gaussians, the azimuth of m with a regular arrangement by ``cos(f phi)**2``; the mean over
the comparisons is taken, then the largest value over j and k.

What makes it fast: polar angles and meridian directions depend on pairs only and are worked out
once for a site (the neighbours of a smaller coordination number are the first of the list of a
larger one); 2 f is a whole number, so ``cos(f phi)**2 = (1 + T_2f(cos phi)) / 2`` needs no
trigonometry in the loop over triples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.features._numeric import inner, norm

# Order parameters of each coordination number, in the peer's order.
MOTIFS: dict[int, tuple[str, ...]] = {
    1: ("sgl_bd",),
    2: ("L-shaped", "water-like", "bent 120 degrees", "bent 150 degrees", "linear"),
    3: ("trigonal planar", "trigonal non-coplanar", "T-shaped"),
    4: (
        "square co-planar",
        "tetrahedral",
        "rectangular see-saw-like",
        "see-saw-like",
        "trigonal pyramidal",
    ),
    5: ("pentagonal planar", "square pyramidal", "trigonal bipyramidal"),
    6: ("hexagonal planar", "octahedral", "pentagonal pyramidal"),
    7: ("hexagonal pyramidal", "pentagonal bipyramidal"),
    8: ("body-centered cubic", "hexagonal bipyramidal"),
    9: ("q2", "q4", "q6"),
    10: ("q2", "q4", "q6"),
    11: ("q2", "q4", "q6"),
    12: ("cuboctahedral", "q2", "q4", "q6"),
}
MAX_NEIGHBOURS = 12  # no order parameter is defined for more
MAX_MOTIFS = 5

# Kinds of order parameters.
SINGLE, BENT, POLAR, AXIAL, SEESAW, PENTAGON, HEXAGON, CUBOCT, BCC, Q2, Q4, Q6 = range(12)

# (coordination number, motif): (kind, target angle / pi, inverse Gaussian width at the target in
# 1/pi, 2 f, smallest polar angle that counts as the south pole, inverse width at the south pole).
# Angles of 2.356..., 2.618... and 2.792... are 135, 150 and 160 degrees.
_NONE = math.inf
_SPP = 2.356194490192345
_TET = 0.6081734479693927
PARAMETERS: dict[tuple[int, str], tuple[int, float, float, int, float, float]] = {
    (1, "sgl_bd"): (SINGLE, 0.0, 0.0, 0, _NONE, 0.0),
    (2, "L-shaped"): (BENT, 0.5, 15.15, 0, _NONE, 0.0),
    (2, "water-like"): (BENT, 0.5802777777777778, 13.95, 0, _NONE, 0.0),
    (2, "bent 120 degrees"): (BENT, 0.666666666667, 13.25, 0, _NONE, 0.0),
    (2, "bent 150 degrees"): (BENT, 0.833333333333333, 12.45, 0, _NONE, 0.0),
    (2, "linear"): (BENT, 1.0, 8.667, 0, _NONE, 0.0),
    (3, "trigonal planar"): (POLAR, 0.66666666667, 17.5, 2, _NONE, 0.0),
    (3, "trigonal non-coplanar"): (POLAR, _TET, 18.33, 3, _NONE, 0.0),
    (3, "T-shaped"): (POLAR, 0.5, 15.5, 2, _NONE, 0.0),
    (4, "square co-planar"): (AXIAL, 0.5, 17.7, 2, _SPP, 13.5),
    (4, "tetrahedral"): (POLAR, _TET, 18.5, 3, _NONE, 0.0),
    (4, "rectangular see-saw-like"): (SEESAW, 0.5, 27.0, 4, _SPP, 11.5),
    (4, "see-saw-like"): (AXIAL, 0.5, 15.75, 3, _SPP, 12.75),
    (4, "trigonal pyramidal"): (POLAR, 0.5, 15.5, 3, _NONE, 0.0),
    (5, "pentagonal planar"): (PENTAGON, 0.6, 19.333, 2, _NONE, 0.0),
    (5, "square pyramidal"): (POLAR, 0.5, 14.9, 4, _NONE, 0.0),
    (5, "trigonal bipyramidal"): (AXIAL, 0.5, 16.6, 3, _SPP, 12.0),
    (6, "hexagonal planar"): (HEXAGON, 0.16666667, 25.0, 2, 2.6179938779914944, 7.5),
    (6, "octahedral"): (AXIAL, 0.5, 18.0, 4, _SPP, 15.0),
    (6, "pentagonal pyramidal"): (POLAR, 0.5, 13.8, 5, _NONE, 0.0),
    (7, "hexagonal pyramidal"): (POLAR, 0.5, 12.5, 6, _NONE, 0.0),
    (7, "pentagonal bipyramidal"): (AXIAL, 0.5, 14.75, 5, _SPP, 12.5),
    (8, "body-centered cubic"): (BCC, 0.0, 6.0, 0, 2.5261129449194057, 15.0),
    (8, "hexagonal bipyramidal"): (AXIAL, 0.5, 13.6, 6, _SPP, 14.1),
    (12, "cuboctahedral"): (CUBOCT, 0.5, 25.5, 2, 2.792526803190927, 28.75),
}
for _cn in (9, 10, 11, 12):
    for _kind, _q in ((Q2, "q2"), (Q4, "q4"), (Q6, "q6")):
        PARAMETERS[_cn, _q] = (_kind, 0.0, 0.0, 0, _NONE, 0.0)

# The same as arrays, by coordination number and place in MOTIFS.
MOTIF_COUNT = np.array([len(MOTIFS.get(cn, ())) for cn in range(MAX_NEIGHBOURS + 1)])
MOTIF_TABLE = np.zeros((MAX_NEIGHBOURS + 1, MAX_MOTIFS, 6))
for _cn, _names in MOTIFS.items():
    for _place, _name in enumerate(_names):
        MOTIF_TABLE[_cn, _place] = PARAMETERS[_cn, _name]

# Cuboctahedron: limits of the equatorial belt (75 and 105 degrees) and the inverse width of the
# angles to the neighbours north and south of it.
CUBOCT_NORTH = 1.3089969389957472
CUBOCT_SOUTH = 1.8325957145940461
CUBOCT_WIDTH = 31.25

# Weights of neighbours that differ by less, relatively, are equal up to rounding.
EQUAL_SHARE = 1e-12

# A direction this close to the pole has no azimuth.
_VERY_SMALL = 1e-12


class Directions(NamedTuple):
    """Neighbours of a site by falling weight, and the geometry of their pairs; m = 12 at most.

    Attributes:
        unit: (m, 3) unit vectors from the site.
        share: (m,) weights.
        theta: (m, m) angle between neighbours j and k in radians.
        meridian: (m, m, 3) unit vector along the part of k at right angles to j.
        defined: (m, m) whether that part is not null.
        score: (m, m) scratch.
    """

    unit: np.ndarray
    share: np.ndarray
    theta: np.ndarray
    meridian: np.ndarray
    defined: np.ndarray
    score: np.ndarray


@njit(nogil=True, cache=True, fastmath=False)
def make_directions():
    """Make work arrays for the neighbours of a site."""
    m = MAX_NEIGHBOURS
    return Directions(
        np.empty((m, 3)),
        np.empty(m),
        np.empty((m, m)),
        np.empty((m, m, 3)),
        np.zeros((m, m), dtype=np.bool_),
        np.empty((m, m)),
    )


@njit(nogil=True, cache=True, fastmath=False)
def pair_geometry(near, n):
    """Fill the angles and meridians of the first n neighbours; near: Directions."""
    for j in range(n):
        zx, zy, zz = near.unit[j, 0], near.unit[j, 1], near.unit[j, 2]
        zz2 = inner(zx, zy, zz, zx, zy, zz)
        for k in range(n):
            if k == j:
                near.theta[j, k] = 0.0
                continue
            x, y, z = near.unit[k, 0], near.unit[k, 1], near.unit[k, 2]
            along = inner(zx, zy, zz, x, y, z)
            near.theta[j, k] = math.acos(max(-1.0, min(along, 1.0)))
            along /= zz2
            x -= along * zx
            y -= along * zy
            z -= along * zz
            length = norm(x, y, z)
            near.defined[j, k] = length >= _VERY_SMALL
            if near.defined[j, k]:
                near.meridian[j, k, 0] = x / length
                near.meridian[j, k, 1] = y / length
                near.meridian[j, k, 2] = z / length


@njit(nogil=True, cache=True, fastmath=False)
def _gauss(x):
    return math.exp(-0.5 * x * x)


@njit(nogil=True, cache=True, fastmath=False)
def _azimuth_cosine(meridian, j, k, m):
    a, b = meridian[j, k], meridian[j, m]
    c = inner(a[0], a[1], a[2], b[0], b[1], b[2])
    return max(-1.0, min(c, 1.0))


@njit(nogil=True, cache=True, fastmath=False)
def _cosine_squared(twice_f, c):
    """Compute ``cos(f phi)**2`` from ``c = cos phi`` by the Chebyshev polynomial of degree 2 f."""
    c2 = c * c
    if twice_f == 2:
        return c2
    if twice_f == 3:
        t = c * (4.0 * c2 - 3.0)
    elif twice_f == 4:
        t = 8.0 * c2 * (c2 - 1.0) + 1.0
    elif twice_f == 5:
        t = c * ((16.0 * c2 - 20.0) * c2 + 5.0)
    else:
        t = ((32.0 * c2 - 48.0) * c2 + 18.0) * c2 - 1.0
    return 0.5 * (1.0 + t)


@njit(nogil=True, cache=True, fastmath=False)
def _target_score(kind, theta, target, width):
    """Compute the Gaussian score of a polar angle that is not at the south pole."""
    t = theta / math.pi
    if kind == PENTAGON:  # neighbours in the plane at 72 or 144 degrees
        aim = 0.4 if theta <= target * math.pi else 0.8
        return _gauss(width * (t - aim))
    if kind == HEXAGON:  # 60 or 120 degrees
        return _gauss(width * (abs(t - 0.5) - target))
    return _gauss(width * (t - target))


@njit(nogil=True, cache=True, fastmath=False)
def _polyhedron(kind, n, near, target, width, twice_f, south, south_width):
    """Order parameters of the common form (see the module's notes)."""
    theta, meridian, defined, score = near.theta, near.meridian, near.defined, near.score
    for j in range(n):
        for k in range(n):
            if j == k:
                continue
            if theta[j, k] < south:
                score[j, k] = _target_score(kind, theta[j, k], target, width)
            else:
                score[j, k] = _gauss(south_width * (theta[j, k] / math.pi - 1.0))
    best = -math.inf
    for j in range(n):
        for k in range(n):
            if j == k:
                continue
            k_is_south = theta[j, k] >= south
            total = 0.0 if k_is_south else score[j, k]
            weight = 0.0 if k_is_south else 1.0
            if defined[j, k]:
                for m in range(n):
                    if m == j or m == k:
                        continue
                    if theta[j, m] >= south:
                        total += score[j, m]
                        weight += 1.0
                    elif defined[j, m] and not k_is_south:
                        c = _azimuth_cosine(meridian, j, k, m)
                        if kind == SEESAW and math.acos(c) >= 0.75 * math.pi:
                            continue
                        total += score[j, m] * _cosine_squared(twice_f, c)
                        weight += 1.0
            value = total / weight if weight > 1e-12 else 0.0
            best = max(best, value)
    return best


@njit(nogil=True, cache=True, fastmath=False)
def _cuboctahedron(n, near, width, south, south_width):
    """Compute a term of the cuboctahedron's: k, on the meridian, near the equator or south."""
    theta, meridian, defined = near.theta, near.meridian, near.defined
    best = -math.inf
    for j in range(n):
        for k in range(n):
            if j == k:
                continue
            total = 0.0
            weight = 0.0
            if theta[j, k] >= south:
                # The weight of the south pole (1.8 in the peer) cancels: nothing else counts here.
                total = _gauss(south_width * (theta[j, k] / math.pi - 1.0))
                weight = 1.0
            elif defined[j, k] and CUBOCT_NORTH < theta[j, k] < CUBOCT_SOUTH:
                for m in range(n):
                    if m == j or m == k or not defined[j, m] or theta[j, m] >= south:
                        continue
                    t = theta[j, m]
                    c = _azimuth_cosine(meridian, j, k, m)
                    if CUBOCT_NORTH < t < CUBOCT_SOUTH:
                        total += c * c * _gauss(width * (t / math.pi - 0.5))
                        weight += 1.0
                    elif t != CUBOCT_NORTH and t != CUBOCT_SOUTH:
                        ring = 1.0 / 3.0 if t < CUBOCT_NORTH else 2.0 / 3.0
                        # cos(phi - pi/2) = sin(phi), with phi in [0, pi]
                        azimuth = 0.0556 * (math.sqrt(1.0 - c * c) - 0.81649658)
                        total += _gauss(azimuth) * _gauss(CUBOCT_WIDTH * (t / math.pi - ring))
                        weight += 1.0
            best = max(best, total / weight if weight > 1e-12 else 0.0)
    return best


@njit(nogil=True, cache=True, fastmath=False)
def _cube_term(n, j, k, near):
    """Compute a term of the cube's parameter: j at the pole, k on the meridian, not opposite."""
    theta, meridian, defined = near.theta, near.meridian, near.defined
    if not defined[j, k]:
        return 0.0
    total = 0.0
    for m in range(n):
        if m == j or m == k or not defined[j, m]:
            continue
        c = _azimuth_cosine(meridian, j, k, m)
        t = (theta[j, m] - 0.5 * math.pi) / math.asin(1.0 / 3.0)
        total += c * (4.0 * c * c - 3.0) * t * _gauss(t)  # cos(3 phi) by Chebyshev
    sign = 1.0 if theta[j, k] > 0.5 * math.pi else -1.0
    return sign * total / math.exp(-0.5)


@njit(nogil=True, cache=True, fastmath=False)
def body_centred(n, place, table, near):
    """Compute the Peters-style order parameter of a cube of neighbours ("body-centered cubic").

    It depends on the order of the neighbours: of each pair the one that comes first is at the pole.
    They come by falling weight. Where two weights are equal (by symmetry) the order is an accident
    of rounding in the peer; here both are taken by halves, which does not depend on how the crystal
    is turned or its sites are numbered.

    Args:
        n, place, table, near: as for `motif_value`.

    Returns:
        The order parameter, and the most it can move up or down by another order of equal weights.
    """
    if n <= 3:
        return 0.0, 0.0
    pole_weight, south, south_width = table[n, place, 2], table[n, place, 4], table[n, place, 5]
    theta, share = near.theta, near.share
    total = 0.0
    spread = 0.0
    for j in range(n):
        for k in range(j + 1, n):
            if theta[j, k] >= south:
                total += pole_weight * _gauss(south_width * (theta[j, k] / math.pi - 1.0))
                continue
            term = _cube_term(n, j, k, near)
            if abs(share[j] - share[k]) <= EQUAL_SHARE * abs(share[j]):
                other = _cube_term(n, k, j, near)
                spread += 0.5 * abs(term - other)
                term = 0.5 * (term + other)
            total += term
    count = 0.5 * n * (6 + (n - 2) * (n - 3))
    return total / count, spread / count


@njit(nogil=True, cache=True, fastmath=False)
def _steinhardt(kind, n, near):
    """Compute q_l: the squared norm of the mean of Y_lm is a mean of P_l (addition theorem)."""
    unit = near.unit
    total = 0.0
    for j in range(n):
        total += 1.0
        for k in range(j + 1, n):
            c = unit[j, 0] * unit[k, 0] + unit[j, 1] * unit[k, 1] + unit[j, 2] * unit[k, 2]
            c2 = c * c
            if kind == Q2:
                p = 1.5 * c2 - 0.5
            elif kind == Q4:
                p = ((35.0 * c2 - 30.0) * c2 + 3.0) / 8.0
            else:
                p = (((231.0 * c2 - 315.0) * c2 + 105.0) * c2 - 5.0) / 16.0
            total += 2.0 * p
    return math.sqrt(max(total, 0.0)) / n


@njit(nogil=True, cache=True, fastmath=False)
def motif_value(n, place, table, near):
    """Compute one order parameter, other than that of the cube (see `body_centred`).

    Args:
        n: coordination number, 1 to 12; the first n neighbours count.
        place: of the motif in ``MOTIFS[n]``.
        table: MOTIF_TABLE.
        near: Directions, with the pairs of at least n neighbours.
    """
    kind = int(table[n, place, 0])
    target = table[n, place, 1]
    width = table[n, place, 2]
    twice_f = int(table[n, place, 3])
    south = table[n, place, 4]
    south_width = table[n, place, 5]
    if kind == SINGLE:
        return 1.0
    if kind == BENT:
        return _gauss(width * (near.theta[0, 1] / math.pi - target))
    if kind == CUBOCT:
        return _cuboctahedron(n, near, width, south, south_width)
    if kind >= Q2:
        return _steinhardt(kind, n, near)
    return _polyhedron(kind, n, near, target, width, twice_f, south, south_width)
