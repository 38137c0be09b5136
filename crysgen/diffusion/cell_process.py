"""The process of cells: noise, and the way back step by step, on vectors of a `CellSpace`.

The schedule decides whether it is a diffusion (`Preserving`) or a flow (`Straight`). What a network
predicts of the clean cell is handed in. Steps are tensors on the device, and nothing waits for
their values, so that a step can be part of a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crysgen.diffusion.cells import CellSpace
from crysgen.diffusion.schedules import Preserving, Straight


class CellProcess(nn.Module):
    """Noise on the vectors (B, D) of cells.

    Args:
        cells: space of the cells.
        schedule: of their noise.
    """

    def __init__(self, cells: CellSpace, schedule: Preserving | Straight) -> None:
        super().__init__()
        self.cells, self.schedule = cells, schedule

    def level(self, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and σ after `steps` (B,), each (B, 1)."""
        schedule = self.schedule
        return schedule.signal(steps).to(like)[:, None], schedule.sigma(steps).to(like)[:, None]

    def noised(self, vectors: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """Return the vectors (B, D) after `steps` (B,) of the forward process.

        Args:
            vectors: (B, D) clean.
            steps: (B,) int, 0 to T.
            noise: (B, D) normal numbers.
        """
        signal, sigma = self.level(steps, vectors)
        return signal * vectors + sigma * noise

    def start(self, noise: Tensor) -> Tensor:
        """Return the vectors (B, D) as they are at T, where no crystal is known.

        Not quite N(0, 1), since some schedules leave some signal: what is left is replaced by a
        normal distribution of the mean and variance of all cells.

        Args:
            noise: (B, D) normal numbers.
        """
        last = torch.tensor(self.schedule.steps)
        signal, sigma = self.schedule.signal(last), self.schedule.sigma(last)
        spread = (sigma**2 + signal**2 * self.cells.start_variance()).sqrt()
        return (signal * self.cells.start_mean()).to(noise) + spread.to(noise) * noise

    def expected(self, vectors: Tensor, steps: Tensor) -> Tensor:
        """Return the mean (B, D) of clean cells given noisy ones, taking cells as normal."""
        mean = self.cells.start_mean().to(vectors)
        signal, sigma = self.level(steps, vectors)
        spread = self.cells.start_variance().to(vectors)
        weight = signal * spread / (signal.square() * spread + sigma.square())
        return mean + weight * (vectors - signal * mean)

    def unknown(self, steps: Tensor, like: Tensor) -> Tensor:
        """Return the standard deviation (B, D) of clean cells around `expected`."""
        signal, sigma = self.level(steps, like)
        spread = self.cells.start_variance().to(like)
        return (sigma.square() * spread / (signal.square() * spread + sigma.square())).sqrt()

    def posterior_mean(self, vectors: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """Return the mean (B, D) one step before `steps` (B,), given clean and noisy vectors."""
        way = self.schedule.posterior(steps, steps - 1)
        return (
            way.from_start.to(vectors)[:, None] * vectors
            + way.from_now.to(vectors)[:, None] * noisy
        )

    def before(
        self, vectors: Tensor, clean: Tensor, steps: Tensor, earlier: Tensor, noise: Tensor
    ) -> Tensor:
        """Draw vectors (B, D) at the steps `earlier` from those at `steps`.

        Args:
            vectors: (B, D) at `steps`.
            clean: (B, D) predicted.
            steps: (B,) int, from which.
            earlier: (B,) int, to which.
            noise: (B, D) normal numbers, times any factor; a flow uses none of it.
        """
        way = self.schedule.posterior(steps, earlier)
        start, now = way.from_start.to(vectors)[:, None], way.from_now.to(vectors)[:, None]
        return start * clean + now * vectors + way.variance.sqrt().to(vectors)[:, None] * noise
