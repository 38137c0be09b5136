"""Diffusion of CrysLDM: latents by DDPM, positions as wrapped normals, and the way back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from crysgen.diffusion.positions import FlowProcess, NoisyPositions, ScoreProcess
from crysgen.diffusion.schedules import Preserving
from crysgen.diffusion.torus import remove_mean, wrap
from crysgen.models.crysldm_networks import Latents


class WayBack(NamedTuple):
    """One step back, but for the crystals.

    Attributes:
        step: () from which; see `step_tensor`.
        earlier: () to which.
        latents: normal numbers for the latents.
        positions: (B, N, 3) normal numbers for positions.
        correction: (B, N, 3) normal numbers for the corrector.
    """

    step: Tensor
    earlier: Tensor
    latents: Latents
    positions: Tensor
    correction: Tensor

    def rows(self, size: int) -> tuple[Tensor, Tensor]:
        """Return both steps for each crystal (B,): to look up a single one, a GPU would wait."""
        return self.step.expand(size), self.earlier.expand(size)


class LatentDiffusion(nn.Module):
    """The process on latents and fractional coordinates.

    Args:
        latents: schedule of their noise.
        positions: their process.
    """

    def __init__(self, latents: Preserving, positions: ScoreProcess | FlowProcess) -> None:
        super().__init__()
        self.latents, self.positions = latents, positions

    def noised_latents(self, clean: Latents, steps: Tensor, noise: Latents) -> Latents:
        """Return latents after `steps` (B,) of the forward process (Eq. 8)."""
        signal, sigma = self.levels(steps, clean.cell)
        atoms, cell = (signal * z + sigma * e for z, e in zip(clean, noise, strict=True))
        return Latents(atoms, cell)

    def velocities(self, clean: Latents, steps: Tensor, noise: Latents) -> Latents:
        """Return what the denoiser should give."""
        signal, sigma = self.levels(steps, clean.cell)
        atoms, cell = (signal * e - sigma * z for z, e in zip(clean, noise, strict=True))
        return Latents(atoms, cell)

    def noised_positions(
        self, frac_coords: Tensor, atomic_numbers: Tensor, steps: Tensor, noise: Tensor
    ) -> NoisyPositions:
        """Return positions after `steps` (B,) and displacements in units of their size (Eq. 12)."""
        noisy = self.positions.noised(frac_coords, atomic_numbers, steps, noise)
        return NoisyPositions(noisy.frac_coords, noisy.displacement / self.sizes(steps, noise))

    def levels(self, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(ᾱ) and sqrt(1 - ᾱ) of latents after `steps`, each (B, 1, 1)."""
        signal, sigma = self.latents.signal(steps), self.latents.sigma(steps)
        return signal.to(like)[:, None, None], sigma.to(like)[:, None, None]

    def sizes(self, steps: Tensor, like: Tensor) -> Tensor:
        """Return the size (B, 1, 1) of displacements at `steps`."""
        return self.positions.unknown(steps).to(like)

    def latents_before(
        self, noisy: Latents, velocities: Latents, way: WayBack, factor: float
    ) -> Latents:
        """Draw latents one step earlier (Algorithm 2, lines 5 and 6).

        Args:
            noisy: latents at the step.
            velocities: predicted.
            way: the step.
            factor: of the noise: 1 for DDPM, 0 for DDIM's deterministic step (Song et al., 2021).
        """
        steps, earlier = way.rows(len(noisy.cell))
        signal, sigma = self.levels(steps, noisy.cell)
        signal_then, sigma_then = self.levels(earlier, noisy.cell)
        spread = self.latents.posterior(steps, earlier).spread.to(noisy.cell)
        jitter = factor * spread[:, None, None]
        left = (sigma_then.square() - jitter.square()).clamp_min(0).sqrt()
        found = []
        for z, v, e in zip(noisy, velocities, way.latents, strict=True):
            clean, noise = signal * z - sigma * v, sigma * z + signal * v
            found.append(signal_then * clean + left * noise + jitter * e)
        return Latents(*found)

    def positions_before(
        self, frac_coords: Tensor, displacement: Tensor, way: WayBack, mask: Tensor, factor: float
    ) -> Tensor:
        """Draw positions one step earlier (Algorithm 2, line 8, for any earlier step), or flow.

        Args:
            frac_coords: (B, N, 3) at the step.
            displacement: (B, N, 3) predicted, which is σ² times the score.
            way: the step.
            mask: (B, N) where atoms are.
            factor: of the noise; 1 draws as the paper does, 0 follows DDIM's deterministic step. A
                flow has none.
        """
        steps, earlier = way.rows(len(frac_coords))
        if isinstance(self.positions, FlowProcess):
            return self.positions.before(frac_coords, displacement, steps, earlier, way.positions)
        schedule = self.positions.schedule
        numbers = (
            schedule.sigma(steps),
            schedule.sigma(earlier),
            factor * schedule.posterior(steps, earlier).spread,
        )
        now, then, jitter = (number.to(frac_coords)[:, None, None] for number in numbers)
        left = (then.square() - jitter.square()).clamp_min(0).sqrt()
        noise = remove_mean(way.positions, mask)
        return wrap(frac_coords + (1 - left / now) * displacement + jitter * noise)

    def corrected(
        self, frac_coords: Tensor, displacement: Tensor, way: WayBack, mask: Tensor, size: float
    ) -> Tensor:
        """Take one step of Langevin dynamics at the noise of the step (Algorithm 2, line 11).

        Args:
            frac_coords: (B, N, 3) at the step.
            displacement: (B, N, 3) predicted.
            way: the step.
            mask: (B, N) where atoms are.
            size: of the step, in units of σ².
        """
        assert isinstance(self.positions, ScoreProcess), "a flow has no corrector"
        steps, _ = way.rows(len(frac_coords))
        noise = remove_mean(way.correction, mask)
        return self.positions.corrected(frac_coords, displacement, steps, size, noise)
