"""Short scalar products rounded the way the peer's are.

Some order parameters have steps, and symmetric crystals put neighbours exactly on them (an angle of
90 degrees, or of 135): the last bit of a scalar product then decides. The peer takes them from
BLAS, which sums with fused multiply-adds from the first component to the last on all processors
that have them; so do these.
"""

from __future__ import annotations

import math
from fractions import Fraction

from numba import config, types
from numba.extending import intrinsic

from crysmetrics.compiled import njit

_SMALLEST = 1e-200
"""Product below which what it lost may be too small a number, and far above which too large."""

if config.DISABLE_JIT:

    def _fma(a, b, c):
        """``a * b + c`` rounded once."""
        a, b, c = float(a), float(b), float(c)
        product = a * b
        plain = product + c
        if a == 0.0 or b == 0.0 or not math.isfinite(plain):
            return plain
        if abs(product) < _SMALLEST or max(abs(product), abs(a), abs(b)) > 1 / _SMALLEST:
            return float(Fraction(a) * Fraction(b) + Fraction(c))
        # What product and sum have lost (Dekker, Numer. Math. 18, 224 (1971), and Knuth).
        a_high, b_high = _high(a), _high(b)
        a_low, b_low = a - a_high, b - b_high
        lost = a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low
        other = plain - product
        return plain + ((product - (plain - other)) + (c - other) + lost)

    def _high(x):
        """Keep the upper half of the digits of a number."""
        far = 134217729.0 * x  # 2^27 + 1
        return far - (far - x)

else:

    @intrinsic
    def _fma(typing_context, a, b, c):
        """``a * b + c`` rounded once."""

        def code(context, builder, signature, arguments):
            return builder.fma(*arguments)

        return types.float64(types.float64, types.float64, types.float64), code


@njit(nogil=True, cache=True, fastmath=False)
def inner(ax, ay, az, bx, by, bz):
    """Compute the scalar product of two vectors."""
    return _fma(az, bz, _fma(ay, by, ax * bx))


@njit(nogil=True, cache=True, fastmath=False)
def norm(x, y, z):
    """Compute the length of a vector."""
    return math.sqrt(inner(x, y, z, x, y, z))


@njit(nogil=True, cache=True, fastmath=False)
def cartesian(f0, f1, f2, lattice, axis):
    """Compute component `axis` of the point with fractional coordinates f."""
    return inner(f0, f1, f2, lattice[0, axis], lattice[1, axis], lattice[2, axis])
