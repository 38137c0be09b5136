"""Fractional coordinates as points of a torus (GemsDiff, Section 4.2 and Appendices C to E)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wrap(frac_coords: Tensor) -> Tensor:
    """Wrap fractional coordinates into [0, 1)."""
    wrapped = frac_coords - frac_coords.floor()
    # -1e-17 - floor(-1e-17) rounds to 1, which is 0.
    return torch.where(wrapped >= 1, torch.zeros_like(wrapped), wrapped)


def shortest_path(start: Tensor, end: Tensor) -> Tensor:
    """Compute the shortest path round the torus, `end - start - k*` in [-1/2, 1/2] (Eq. 20).

    k* minimises the length in fractional coordinates, component by component.
    """
    path = end - start
    return path - path.round()


def remove_mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """Subtract from vectors (B, N, 3) of atoms (B, N) the mean of each crystal; zero on padding.

    A common shift of all atoms changes no crystal, so it is neither noise nor to be learned.
    """
    weights = mask[..., None].to(vectors)
    mean = (vectors * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp_min(1)
    return (vectors - mean) * weights


def wrapped_normal_cdf(x: Tensor, sigma: Tensor | float, images: int = 8) -> Tensor:
    """Compute P([N(0, σ²)]_T <= x) for x in [-1/2, 1/2], counted from -1/2 (Appendix C)."""
    shifts = torch.arange(-images, images + 1, dtype=x.dtype, device=x.device)
    scale = math.sqrt(2) * torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    upper = torch.erf((x[..., None] + shifts) / scale)
    lower = torch.erf((shifts - 0.5) / scale)
    return ((upper - lower) / 2).sum(-1)


def fourier_coefficient(sigma: Tensor, order: int = 1) -> Tensor:
    """Compute exp(-2 π² n² σ²), the n-th Fourier coefficient of [N(0, σ²)]_T (Appendix D).

    The paper prints exp(-2 π σ² n²), without the square of π that the integral has.
    """
    return torch.exp(-2 * (math.pi * order * sigma) ** 2)


def image_mean(path: Tensor, sigma: Tensor, images: int = 4) -> Tensor:
    """Mean of path + k over whole numbers k, weighted by normal distributions of width σ.

    It is σ² times the score of the wrapped normal distribution: the mean of all ways back to a
    point from which normal noise came, its images included (DiffCSP, Appendix A).

    Args:
        path: (...) components in [-1/2, 1/2], from the noisy to the clean point.
        sigma: broadcast with `path`, above 0; at 0 the path is returned.
        images: summed on each side; enough up to σ = 0.7.
    """
    shifts = torch.arange(-images, images + 1, dtype=path.dtype, device=path.device)
    ways = path[..., None] + shifts
    width = sigma.clamp_min(1e-4)[..., None]  # narrower, no second image has a weight
    return (ways * (-(ways / width).square() / 2).softmax(-1)).sum(-1)


def image_mean_size(sigma: Tensor, points: int = 4001) -> Tensor:
    """Root mean square (...) of `image_mean` over the wrapped normal distribution of width σ."""
    path = torch.linspace(-0.5, 0.5, points, dtype=torch.float64)
    shifts = torch.arange(-4.0, 5, dtype=torch.float64)
    sizes = []
    for width in sigma.double().flatten():
        if width < 20 / points:  # far narrower than the torus, and than the grid would need
            sizes.append(width)
            continue
        density = torch.exp(-((path[:, None] + shifts) / width).square() / 2).sum(1)
        square = torch.trapezoid(image_mean(path, width).square() * density, path)
        sizes.append((square / torch.trapezoid(density, path)).sqrt())
    return torch.stack(sizes).reshape(sigma.shape)
