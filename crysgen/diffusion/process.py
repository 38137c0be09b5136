"""Diffusion of a crystal's cell and positions together: noise, and the way back step by step.

The cell is a vector of a `CellSpace` with variance-preserving noise; positions lie on the torus,
with noise that only grows. What a network predicts of the clean crystal is handed in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crysgen.diffusion.cells import CellSpace
from crysgen.diffusion.schedules import Exploding, Posterior, Preserving
from crysgen.diffusion.torus import remove_mean, wrap


class WayBack(NamedTuple):
    """Numbers of one step back, all of shape ().

    Attributes:
        step: int64, from which.
        positions: of the positions.
        cells: of the cells.
    """

    step: Tensor
    positions: Posterior
    cells: Posterior


class CrystalDiffusion(nn.Module):
    """The process on vectors of cells (B, D) and fractional coordinates (B, N, 3).

    Args:
        cells: space of the cells.
        lattice: schedule of their noise.
        positions: schedule of the positions' noise.
    """

    def __init__(self, cells: CellSpace, lattice: Preserving, positions: Exploding) -> None:
        super().__init__()
        self.cells, self.lattice, self.positions = cells, lattice, positions

    def noised(
        self,
        vectors: Tensor,
        frac_coords: Tensor,
        mask: Tensor,
        steps: Tensor,
        noise: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return cells and positions after `steps` (B,) of the forward process.

        Args:
            vectors: (B, D) clean cells.
            frac_coords: (B, N, 3) clean positions.
            mask: (B, N) where atoms are.
            steps: (B,) int, 0 to T.
            noise: normal numbers (B, D) and (B, N, 3); a shift of all atoms is taken out.
        """
        signal, sigma = self.lattice_noise(steps, vectors)
        spread = self.positions.sigma(steps).to(vectors)[:, None, None]
        shift = spread * remove_mean(noise[1], mask)
        return signal * vectors + sigma * noise[0], wrap(frac_coords + shift)

    def start(self, noise: tuple[Tensor, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return cells and positions as they are at T, where no crystal is known.

        Not quite N(0, 1) and uniform, since some signal is left: what is left of the cells is
        replaced by a normal distribution of their mean and variance, and positions by uniform ones
        plus the noise of step T, which is uniform.

        Args:
            noise: normal numbers (B, D) and (B, N, 3).
            mask: (B, N) where atoms are.
        """
        draw, moves = noise
        last = torch.tensor(self.lattice.steps)
        signal, sigma = self.lattice.signal(last), self.lattice.sigma(last)
        spread = (sigma**2 + signal**2 * self.cells.start_variance()).sqrt()
        vectors = (signal * self.cells.start_mean()).to(draw) + spread.to(draw) * draw
        # The normal distribution function makes uniform numbers of normal ones.
        uniform = (1 + torch.erf(moves / 2**0.5)) / 2
        return vectors, wrap(uniform) * mask[..., None]

    def lattice_noise(self, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and σ of the cells after `steps` (B,), each (B, 1)."""
        schedule = self.lattice
        return schedule.signal(steps).to(like)[:, None], schedule.sigma(steps).to(like)[:, None]

    def expected_cells(self, vectors: Tensor, steps: Tensor) -> Tensor:
        """Return the mean (B, D) of clean cells given noisy ones, taking cells as normal."""
        mean = self.cells.start_mean().to(vectors)
        signal, sigma = self.lattice_noise(steps, vectors)
        spread = self.cells.start_variance().to(vectors)
        weight = signal * spread / (signal.square() * spread + sigma.square())
        return mean + weight * (vectors - signal * mean)

    def unknown_of_cells(self, steps: Tensor, like: Tensor) -> Tensor:
        """Return the standard deviation (B, D) of clean cells around `expected_cells`."""
        signal, sigma = self.lattice_noise(steps, like)
        spread = self.cells.start_variance().to(like)
        return (sigma.square() * spread / (signal.square() * spread + sigma.square())).sqrt()

    def unknown_of_positions(self, steps: Tensor, spread: float, floor: float) -> Tensor:
        """Return the expected distance (B, 1, 1) of clean positions from their noisy ones.

        Args:
            steps: (B,) int.
            spread: distance of a position from a guess without data, as a share of the cell.
            floor: smallest distance that counts.
        """
        variance = self.positions.sigma(steps).square()
        left = variance * spread**2 / (variance + spread**2) + floor**2
        return left.sqrt()[:, None, None]

    def posterior_cells(self, vectors: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """Return the mean (B, D) of cells one step before `steps`, given clean and noisy ones."""
        way = self.lattice.posterior(steps, steps - 1)
        start, now = way.from_start.to(vectors)[:, None], way.from_now.to(vectors)[:, None]
        return start * vectors + now * noisy

    def way_back(self, step: int, earlier: int) -> WayBack:
        """Return the numbers of the step from `step` to `earlier`, as tensors on the device."""
        device = self.positions.variance.device
        return WayBack(
            torch.full((), step, device=device),
            self.positions.posterior(step, earlier),
            self.lattice.posterior(step, earlier),
        )

    def positions_before(
        self, frac_coords: Tensor, displacement: Tensor, way: WayBack, noise: Tensor
    ) -> Tensor:
        """Draw positions one step earlier.

        Args:
            frac_coords: (B, N, 3) at the step.
            displacement: (B, N, 3) predicted, to the clean positions.
            way: numbers of the step.
            noise: (B, N, 3) normal numbers without a shift of all atoms, times any factor.
        """
        jitter = way.positions.variance.sqrt() * noise
        return wrap(frac_coords + way.positions.from_start * displacement + jitter)

    def cells_before(self, vectors: Tensor, clean: Tensor, way: WayBack, noise: Tensor) -> Tensor:
        """Draw cells one step earlier.

        Args:
            vectors: (B, D) at the step.
            clean: (B, D) predicted.
            way: numbers of the step.
            noise: (B, D) normal numbers, times any factor.
        """
        mean = way.cells.from_start * clean + way.cells.from_now * vectors
        return mean + way.cells.variance.sqrt() * noise
