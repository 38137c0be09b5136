"""Radial and angular bases of DimeNet, in closed form.

Gasteiger et al., "Directional Message Passing for Molecular Graphs", ICLR 2020, Equations 6 to 8.
Peers derive the same functions with a computer algebra system whenever a network is built.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def envelope(x: Tensor, exponent: int) -> Tensor:
    """Compute the smooth cutoff divided by the distance: 1/x near 0, flat and 0 from x = 1.

    Args:
        x: distances in units of the cutoff, above 0.
        exponent: of Equation 8, `p - 1` there.
    """
    p = exponent + 1
    polynomial = (
        -(p + 1) * (p + 2) / 2 * x ** (p - 1) + p * (p + 2) * x**p - p * (p + 1) / 2 * x ** (p + 1)
    )
    return (1 / x + polynomial) * (x < 1)


@cache
def bessel_zeros(orders: int, count: int) -> NDArray[np.float64]:
    """Find the first zeros of the spherical Bessel functions, (orders, count)."""
    from scipy.optimize import brentq
    from scipy.special import spherical_jn

    # The zeros of one order lie between those of the order before; j_0's are those of sin(x)/x.
    between = np.pi * np.arange(1, count + orders)
    found = [between[:count]]
    for order in range(1, orders):
        between = np.array(
            [
                brentq(lambda x, order=order: spherical_jn(order, x), low, high, xtol=1e-14)
                for low, high in pairwise(between.tolist())
            ]
        )
        found.append(between[:count])
    return np.array(found)


@cache
def bessel_norms(orders: int, count: int) -> NDArray[np.float64]:
    """Compute factors (orders, count) that make the radial functions orthonormal on [0, 1]."""
    from scipy.special import spherical_jn

    zeros = bessel_zeros(orders, count)
    following = np.arange(1, orders + 1)[:, None]
    return 1 / np.sqrt(0.5 * spherical_jn(following, zeros) ** 2)


def spherical_bessel(x: NDArray[np.float64], orders: int) -> NDArray[np.float64]:
    """Evaluate j_0 to j_(orders - 1) at zeros times distances.

    Args:
        x: (E, orders, count), the argument for each order.
        orders: number of orders.

    Returns:
        (E, orders, count).
    """
    from scipy.special import spherical_jn

    return np.stack([spherical_jn(order, x[:, order]) for order in range(orders)], axis=1)


def radial_basis(
    distances: Tensor, cutoff: float, orders: int, count: int, exponent: int
) -> Tensor:
    """Evaluate the radial half of the spherical basis at bond lengths.

    Args:
        distances: (E,) in Å, above 0.
        cutoff: Å.
        orders, count: numbers of angular orders and of radial functions for each.
        exponent: of the envelope.

    Returns:
        (E, orders, count) float32.
    """
    x = (distances / cutoff).double()
    argument = x[:, None, None].cpu().numpy() * bessel_zeros(orders, count)
    values = torch.from_numpy(spherical_bessel(argument, orders) * bessel_norms(orders, count))
    return (envelope(x, exponent)[:, None, None] * values.to(x.device)).float()


def angular_basis(cosines: Tensor, orders: int) -> Tensor:
    """Evaluate the spherical harmonics Y_l^0 for l = 0 to orders - 1.

    Args:
        cosines: (T,) of angles.
        orders: number of them.

    Returns:
        (T, orders).
    """
    legendre = [torch.ones_like(cosines), cosines]
    for order in range(2, orders):
        legendre.append(
            ((2 * order - 1) * cosines * legendre[-1] - (order - 1) * legendre[-2]) / order
        )
    factors = [math.sqrt((2 * order + 1) / (4 * math.pi)) for order in range(orders)]
    return torch.stack([f * p for f, p in zip(factors, legendre, strict=False)], dim=-1)
