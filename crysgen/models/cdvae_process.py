"""Noise of CDVAE on positions and types, and the ways back through its levels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from crysgen.diffusion.torus import remove_mean, shortest_path, wrap
from crysgen.matrices import determinants, inverses

if TYPE_CHECKING:
    from crysgen.models.cdvae_config import CDVAEConfig

_UNIFORM = 12**-0.5
"""Root mean square of a coordinate of uniform displacements, in units of the cell's edge."""


class NoisyPositions(NamedTuple):
    """Positions with noise of some levels.

    Attributes:
        frac_coords: (B, N, 3) in [0, 1).
        moves: (B, N, 3) shortest Cartesian displacements d_min to the clean positions, in units of
            σ_X.
    """

    frac_coords: Tensor
    moves: Tensor


class StepNumbers(NamedTuple):
    """One step of sampling: x ← x + gain s̃ + jitter n, with the decoder's s̃ in units of σ_X.

    Attributes:
        share: of the noise levels that are still ahead, 1 to 0: the place of the step.
        gain: Å.
        jitter: Å.
        type_sigma: σ_A of the level after the step; 0 after the last.
    """

    share: float
    gain: float
    jitter: float
    type_sigma: float


class NoiseLevels(nn.Module):
    """Two geometric sequences of noise levels, of positions in Å and of types (Section 4).

    Levels are numbered from 0, the least noise, to L - 1.

    Args:
        levels: L.
        position_sigmas: (largest, smallest) in Å.
        type_sigmas: (largest, smallest).
    """

    positions: Tensor
    types: Tensor

    def __init__(
        self, levels: int, position_sigmas: tuple[float, float], type_sigmas: tuple[float, float]
    ) -> None:
        super().__init__()
        self.of_positions, self.of_types = position_sigmas, type_sigmas
        shares = torch.linspace(0, 1, levels, dtype=torch.float64) if levels > 1 else torch.ones(1)
        for name, (most, least) in (("positions", position_sigmas), ("types", type_sigmas)):
            values = least * (most / least) ** shares.double()
            self.register_buffer(name, values.float(), persistent=False)

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, share: float) -> tuple[float, float]:
        """Compute (σ_X, σ_A) between the least noise, at 0, and the most, at 1."""
        (most, least), (most_types, least_types) = self.of_positions, self.of_types
        return least * (most / least) ** share, least_types * (most_types / least_types) ** share

    def positions_at(self, share: Tensor) -> Tensor:
        """Compute σ_X (...) in Å at places (...) between 0 and 1."""
        most, least = self.of_positions
        return least * (share * math.log(most / least)).exp()

    def shares(self, levels: Tensor) -> Tensor:
        """Return places between 0 and 1 of levels (B,)."""
        return levels.to(self.positions) / max(1, len(self) - 1)

    def noised(
        self,
        frac_coords: Tensor,
        lattices: Tensor,
        mask: Tensor,
        levels: Tensor,
        noise: Tensor,
        centred: bool,
    ) -> NoisyPositions:
        """Add normal Cartesian noise of the levels (B,) to positions (B, N, 3).

        Args:
            frac_coords: (B, N, 3) clean.
            lattices: (B, 3, 3) rows in Å.
            mask: (B, N) where atoms are.
            levels: (B,) int.
            noise: (B, N, 3) normal numbers.
            centred: whether a common shift of all atoms is taken out of noise and displacements.
        """
        sigma = self.positions[levels].to(frac_coords)[:, None, None]
        noise = remove_mean(noise, mask) if centred else noise * mask[..., None]
        noisy = wrap(frac_coords + sigma * noise @ inverses(lattices))
        moves = shortest_moves(noisy, frac_coords, lattices)
        moves = remove_mean(moves, mask) if centred else moves * mask[..., None]
        return NoisyPositions(noisy, moves / sigma)


def move_sizes(sigma: Tensor, lattices: Tensor) -> Tensor:
    """Estimate how large moves are in units of σ_X without data (B, 1, 1), for a coordinate.

    Args:
        sigma: (B,) or () σ_X in Å.
        lattices: (B, 3, 3) rows in Å.
    """
    most = _UNIFORM * determinants(lattices).abs().pow(1 / 3)
    return (most / (most.square() + sigma.to(most).square()).sqrt())[:, None, None]


def shortest_moves(start: Tensor, end: Tensor, lattices: Tensor) -> Tensor:
    """Compute d_min (B, N, 3) of Eq. 2 in Å: the shortest way over all images of the end.

    Exact for reduced cells: of those the shortest way is among the 27 next to the shortest one in
    fractional coordinates.

    Args:
        start: (B, N, 3) fractional coordinates.
        end: (B, N, 3) the same.
        lattices: (B, 3, 3) rows in Å, of reduced cells.
    """
    ones = torch.arange(-1, 2, device=start.device, dtype=start.dtype)
    images = torch.cartesian_prod(ones, ones, ones)
    path = shortest_path(start, end)[..., None, :] + images
    cartesian = path @ lattices[:, None]
    nearest = cartesian.square().sum(-1).argmin(-1)[..., None, None].expand(*start.shape[:2], 1, 3)
    return cartesian.gather(2, nearest)[:, :, 0]


def noised_types(
    atomic_numbers: Tensor, composition: Tensor, sigma: Tensor, uniform: Tensor
) -> Tensor:
    """Draw types (B, N) from the mixture of the true ones and a composition (Section 4).

    A type stays with probability 1 / (1 + σ_A).

    Args:
        atomic_numbers: (B, N); 0 is padding, and stays so.
        composition: (B, Z) shares of the elements from 1 on.
        sigma: (B,) or () σ_A.
        uniform: (B, N, 2) numbers in [0, 1).
    """
    stay = uniform[..., 0] * (1 + sigma.reshape(-1, 1)) < 1
    drawn = drawn_types(composition[:, None], uniform[..., 1])
    return torch.where(stay, atomic_numbers, drawn) * (atomic_numbers > 0)


def drawn_types(chances: Tensor, uniform: Tensor) -> Tensor:
    """Draw atomic numbers (B, N) from chances (B, N or 1, Z) by uniform numbers (B, N)."""
    whole = chances.cumsum(-1)
    found = (uniform[..., None] * whole[..., -1:] >= whole).sum(-1)
    return found.clamp_max(chances.shape[-1] - 1) + 1


def plan(levels: NoiseLevels, config: CDVAEConfig, steps: int) -> Iterator[StepNumbers]:
    """Iterate over all steps of sampling, from the most noise to the least.

    Args:
        levels: of the model.
        config: with the sampler.
        steps: how many. `langevin` visits at most L levels, each as often as every other but for
            rounding; the other samplers as many levels as there are steps.
    """
    if config.sampler == "langevin":
        visited = min(len(levels), steps)
        places = [1 - i * visited // steps / max(1, visited - 1) for i in range(steps)]
        least, _ = levels.at(0.0)
        for place, following in pairwise([*places, None]):
            assert place is not None
            sigma, _ = levels.at(place)
            alpha = config.step_size * (sigma / least) ** 2  # as in the authors' program
            types = levels.at(following)[1] if following is not None else 0.0
            yield StepNumbers(place, alpha / sigma, config.noise * math.sqrt(2 * alpha), types)
        return
    places = [1 - i / max(1, steps - 1) for i in range(steps)]
    for place, following in pairwise([*places, None]):
        assert place is not None
        sigma, _ = levels.at(place)
        then, types = levels.at(following) if following is not None else (0.0, 0.0)
        jitter = 0.0
        if config.sampler == "renoised":
            # Of what is left of earlier noise, the decoder's earlier errors are a part.
            yield StepNumbers(place, sigma, config.noise * then, types)
            continue
        if config.sampler == "ancestral":
            jitter = config.noise * then * math.sqrt(1 - (then / sigma) ** 2)
        left = math.sqrt(max(0.0, then**2 - jitter**2))
        yield StepNumbers(place, sigma - left, jitter, types)
