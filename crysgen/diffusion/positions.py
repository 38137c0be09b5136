"""Processes of positions on the torus: noise, what a network learns of it, and the way back.

In all of them a network predicts the displacement (B, N, 3) to the clean positions, in fractional
coordinates and without a common shift of all atoms. They differ in the noise, in what the
displacement means where many clean positions are possible, and in how it is followed. Steps are
tensors on the device, and nothing waits for their values.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from crysgen.diffusion.coupling import paired
from crysgen.diffusion.schedules import Exploding, Straight, values_at
from crysgen.diffusion.torus import image_mean, image_mean_size, remove_mean, shortest_path, wrap


class NoisyPositions(NamedTuple):
    """Positions after some steps of the forward process.

    Attributes:
        frac_coords: (B, N, 3) in [0, 1).
        displacement: (B, N, 3) that a network should predict; its mean over atoms is taken out.
    """

    frac_coords: Tensor
    displacement: Tensor


class PositionProcess(Protocol):
    """Noise on fractional coordinates (B, N, 3), and the way back."""

    def noised(
        self, frac_coords: Tensor, atomic_numbers: Tensor, steps: Tensor, noise: Tensor
    ) -> NoisyPositions:
        """Return positions after `steps` of the forward process.

        Args:
            frac_coords: (B, N, 3) clean.
            atomic_numbers: (B, N); 0 is padding.
            steps: (B,) int, 0 to T.
            noise: (B, N, 3) normal numbers.
        """
        ...

    def start(self, noise: Tensor, mask: Tensor) -> Tensor:
        """Return positions (B, N, 3) at T, where no crystal is known, of normal numbers."""
        ...

    def unknown(self, steps: Tensor) -> Tensor:
        """Return how large the displacements of a coordinate are (B, 1, 1), root mean square."""
        ...

    def share(self, steps: Tensor, earlier: Tensor) -> Tensor:
        """Return how much of a displacement is followed from `steps` to `earlier`, 0 to 1."""
        ...

    def before(
        self,
        frac_coords: Tensor,
        displacement: Tensor,
        steps: Tensor,
        earlier: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Draw positions at the steps `earlier` from those at `steps`.

        Args:
            frac_coords: (B, N, 3) at `steps`.
            displacement: (B, N, 3) predicted, times any factor.
            steps: (B,) int, from which.
            earlier: (B,) int, to which.
            noise: (B, N, 3) normal numbers without a shift of all atoms, times any factor; a flow
                uses none of it.
        """
        ...


def uniform(noise: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1) of normal ones, by their distribution function."""
    return wrap((1 + torch.erf(noise / 2**0.5)) / 2)


class _Exploding(nn.Module):
    """Normal noise that only grows, and the way back by its posterior, x_0 the nearest image."""

    def __init__(self, schedule: Exploding) -> None:
        super().__init__()
        self.schedule = schedule

    def start(self, noise: Tensor, mask: Tensor) -> Tensor:
        """See `PositionProcess`: uniform positions plus the noise of T, which are uniform."""
        return uniform(noise) * mask[..., None]

    def share(self, steps: Tensor, earlier: Tensor) -> Tensor:
        """See `PositionProcess`."""
        return self.schedule.posterior(steps, earlier).from_start

    def before(
        self,
        frac_coords: Tensor,
        displacement: Tensor,
        steps: Tensor,
        earlier: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """See `PositionProcess`."""
        way = self.schedule.posterior(steps, earlier)
        share, spread = (x.to(frac_coords)[:, None, None] for x in (way.from_start, way.spread))
        return wrap(frac_coords + share * displacement + spread * noise)

    def _sigma(self, steps: Tensor, like: Tensor) -> Tensor:
        return self.schedule.sigma(steps).to(like)[:, None, None]


class PathProcess(_Exploding):
    """GemsDiff: normal noise, and the displacement along the shortest path (Eq. 20).

    Args:
        schedule: of the noise.
        spread: how far a coordinate is from any guess without data, as a share of the cell.
        floor: smallest size of displacements that counts.
        shortest: False is ablation (e): displacements across the border of the cell.
        coupled: whether noisy atoms are paired with clean ones (`crysgen.diffusion.coupling`).
    """

    def __init__(
        self, schedule: Exploding, spread: float, floor: float, shortest: bool, coupled: bool
    ) -> None:
        super().__init__(schedule)
        self.spread, self.floor, self.shortest, self.coupled = spread, floor, shortest, coupled

    def noised(
        self, frac_coords: Tensor, atomic_numbers: Tensor, steps: Tensor, noise: Tensor
    ) -> NoisyPositions:
        """See `PositionProcess`. A common shift of all atoms is taken out of the noise."""
        shift = self._sigma(steps, frac_coords) * remove_mean(noise, atomic_numbers > 0)
        noisy = wrap(frac_coords + shift)
        if self.coupled:
            noisy = paired(noisy, frac_coords, atomic_numbers)
        path = shortest_path(noisy, frac_coords) if self.shortest else frac_coords - noisy
        return NoisyPositions(noisy, path)

    def unknown(self, steps: Tensor) -> Tensor:
        """See `PositionProcess`."""
        variance = self.schedule.sigma(steps).square()
        left = variance * self.spread**2 / (variance + self.spread**2) + self.floor**2
        return left.sqrt()[:, None, None]


class ScoreProcess(_Exploding):
    """DiffCSP: normal noise, and σ² times the score of the wrapped normal distribution.

    The displacement is the mean over all images that the noise may have come from, which is what
    the reverse process asks for: where noise is wide it goes to zero, and its mean given all data
    is a gradient, unlike that of the shortest path. A common shift stays in the noise, so that each
    atom's is exactly wrapped normal.

    Args:
        schedule: of the noise.
    """

    sizes: Tensor

    def __init__(self, schedule: Exploding) -> None:
        super().__init__(schedule)
        sizes = image_mean_size(schedule.sigma(torch.arange(1, schedule.steps + 1)))
        sizes = torch.cat([sizes[:1], sizes])  # at 0 there is nothing to divide
        self.register_buffer("sizes", sizes, persistent=False)

    def noised(
        self, frac_coords: Tensor, atomic_numbers: Tensor, steps: Tensor, noise: Tensor
    ) -> NoisyPositions:
        """See `PositionProcess`."""
        sigma = self._sigma(steps, frac_coords)
        moved = sigma * noise * (atomic_numbers > 0)[..., None]
        noisy = wrap(frac_coords + moved)
        return NoisyPositions(noisy, image_mean(shortest_path(noisy, frac_coords), sigma))

    def unknown(self, steps: Tensor) -> Tensor:
        """See `PositionProcess`: DiffCSP's weight of the loss."""
        return values_at(self.sizes, steps)[:, None, None]

    def corrected(
        self, frac_coords: Tensor, displacement: Tensor, steps: Tensor, size: float, noise: Tensor
    ) -> Tensor:
        """Take one step of Langevin dynamics within the same noise (DiffCSP's corrector).

        Args:
            frac_coords: (B, N, 3) at `steps`.
            displacement: (B, N, 3) predicted.
            steps: (B,) int.
            size: of the step, in units of σ²; DiffCSP's is 0.4 for MP-20 (1e-5 / 0.005²).
            noise: (B, N, 3) normal numbers without a shift of all atoms, times any factor.
        """
        jitter = math.sqrt(2 * size) * self._sigma(steps, frac_coords) * noise
        return wrap(frac_coords + size * displacement + jitter)


class FlowProcess(nn.Module):
    """Flow matching on the torus (FlowMM, OMatG): geodesics from uniform to clean positions.

    x_τ = x_0 + τ u with the shortest path u to a uniform position, and a constant velocity -u on
    the way back, which is the displacement -τ u divided by τ.

    Args:
        schedule: τ by step.
        spread: root mean square of u.
        floor: smallest size of displacements that counts.
        coupled: whether uniform positions are paired with clean ones.
    """

    def __init__(self, schedule: Straight, spread: float, floor: float, coupled: bool) -> None:
        super().__init__()
        self.schedule, self.spread, self.floor, self.coupled = schedule, spread, floor, coupled

    def noised(
        self, frac_coords: Tensor, atomic_numbers: Tensor, steps: Tensor, noise: Tensor
    ) -> NoisyPositions:
        """See `PositionProcess`."""
        end = uniform(noise)
        if self.coupled:
            end = paired(end, frac_coords, atomic_numbers)
        path = remove_mean(shortest_path(frac_coords, end), atomic_numbers > 0)
        way = self.schedule.sigma(steps).to(frac_coords)[:, None, None] * path
        return NoisyPositions(wrap(frac_coords + way), -way)

    def start(self, noise: Tensor, mask: Tensor) -> Tensor:
        """See `PositionProcess`."""
        return uniform(noise) * mask[..., None]

    def unknown(self, steps: Tensor) -> Tensor:
        """See `PositionProcess`."""
        share = self.spread * self.schedule.sigma(steps)
        return (share.square() + self.floor**2).sqrt()[:, None, None]

    def share(self, steps: Tensor, earlier: Tensor) -> Tensor:
        """See `PositionProcess`."""
        return 1 - self.schedule.sigma(earlier) / self.schedule.sigma(steps)

    def before(
        self,
        frac_coords: Tensor,
        displacement: Tensor,
        steps: Tensor,
        earlier: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """See `PositionProcess`: Euler's step of the velocity."""
        share = self.share(steps, earlier).to(frac_coords)
        return wrap(frac_coords + share[:, None, None] * displacement)
