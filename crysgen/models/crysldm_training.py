"""CrysLDM in training: the losses of Algorithm 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crysgen.diffusion.noise import spread_steps
from crysgen.diffusion.torus import remove_mean
from crysgen.models.crysldm_latents import AUTOENCODER, DIFFUSION, LatentModel
from crysgen.models.crysldm_networks import Latents, atom_means
from crysgen.networks.precision import full_precision
from crysgen.training.batch import Batch


class _Encoding(NamedTuple):
    """A batch on its way through the autoencoder.

    Attributes:
        atomic_numbers: (B, N).
        frac_coords: (B, N, 3).
        cells: (B, R, C) of the form of cells.
        noise: normal numbers of the latents.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    cells: Tensor
    noise: Latents


class _Noising(NamedTuple):
    """A batch on its way through the diffusion.

    Attributes:
        encoding: of the clean crystals.
        steps: (B,) int.
        noise: of the latents.
        frac_coords: (B, N, 3) noisy.
        displacement: (B, N, 3) to be predicted, in units of its size.
        told: (B, N) atomic numbers that the denoiser is told; 0 for none.
    """

    encoding: _Encoding
    steps: Tensor
    noise: Latents
    frac_coords: Tensor
    displacement: Tensor
    told: Tensor


class TrainableLatentModel(LatentModel):
    """An autoencoder and a diffusion of its latents, with their losses.

    Args:
        config: with scale and sizes of the training data.
    """

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, stage: str = DIFFUSION
    ) -> dict[str, Tensor]:
        """Compute the losses of Algorithm 1.

        Returns:
            Of the autoencoder `loss`, its parts `types`, `cell` and `kl`, the share of atoms whose
            type is found again, `type_accuracy`, and the root mean square error of lattice vectors'
            components in Å, `lattice_error`. Of the diffusion `loss`, `atoms`, `cell`, `position`.
        """
        return self.prepared_loss(self.prepare(batch, generator, stage), stage)

    @torch.no_grad()
    def prepare(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        stage: str = DIFFUSION,
        parts: int = 1,
    ) -> _Encoding | _Noising:
        """See `Prepares`; steps are spread evenly over each of `parts` batches of equal size."""
        device, mask = batch.lattices.device, batch.mask

        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, device=device).to(batch.lattices)

        def latents() -> Latents:
            shape = (*mask.shape, self.config.latent_channels)
            cells = (len(mask), *self.form.shape)
            return Latents(normal(mask.new_empty(shape)), normal(mask.new_empty(cells)))

        with full_precision(batch.lattices):
            encoding = _Encoding(
                batch.atomic_numbers, batch.frac_coords, self.cells_of(batch), latents()
            )
            if stage == AUTOENCODER:
                return encoding
            share = len(batch) // parts
            steps = torch.cat(
                [spread_steps(share, self.num_steps, generator, device) for _ in range(parts)]
            )
            noise = latents()
            noisy, displacement = self.process.noised_positions(
                batch.frac_coords, batch.atomic_numbers, steps, normal(batch.frac_coords)
            )
            chance = torch.rand((len(batch), 1), generator=generator, device=device)
            told = torch.where(chance < self.config.told_share, batch.atomic_numbers, 0)
        return _Noising(encoding, steps, noise, noisy, displacement, told)

    def prepared_loss(
        self, prepared: _Encoding | _Noising, stage: str = DIFFUSION
    ) -> dict[str, Tensor]:
        """See `Prepares`."""
        if isinstance(prepared, _Noising):
            return self._diffusion_loss(prepared)
        return self._autoencoder_loss(prepared)

    def _autoencoder_loss(self, encoding: _Encoding) -> dict[str, Tensor]:
        """Compute Eq. 5: means over crystals of the means over their atoms."""
        numbers, frac, cells, noise = encoding
        mask = numbers > 0
        distribution = self.encoder(numbers, frac, cells, mask)
        logits, decoded = self.decoder(distribution.sample(noise), frac, mask)
        with full_precision(cells):
            places = (numbers - 1).clamp_min(0)
            surprise = -logits.log_softmax(-1).gather(-1, places[..., None])[..., 0]
            types = atom_means(surprise, mask).mean()
            cell = (decoded - cells).square().sum((1, 2)).mean()
            kl = distribution.divergence(mask).mean()
            right = (logits.argmax(-1) == places).to(cells)
            with torch.no_grad():
                counts = mask.sum(1)
                made, real = self.form.decode(decoded, counts), self.form.decode(cells, counts)
                angstrom = (made - real).square().mean((1, 2)).sqrt()
            return {
                "loss": types + self.config.lattice_weight * cell + self.config.kl_weight * kl,
                "types": types,
                "cell": cell,
                "kl": kl,
                "type_accuracy": atom_means(right, mask).mean(),
                "lattice_error": angstrom.mean(),
            }

    def _diffusion_loss(self, noising: _Noising) -> dict[str, Tensor]:
        """Compute the loss of Algorithm 1, line 24, with errors per number."""
        encoding, steps, noise, frac, displacement, told = noising
        mask = encoding.atomic_numbers > 0
        with torch.no_grad():
            distribution = self.encoder(
                encoding.atomic_numbers, encoding.frac_coords, encoding.cells, mask
            )
        with full_precision(frac):
            sampled = self.config.sample_latents
            clean = distribution.sample(encoding.noise) if sampled else distribution.mean
            clean = self.scale.standardized(clean)
            noisy = self.process.noised_latents(clean, steps, noise)
            wanted = self.process.velocities(clean, steps, noise)
        numbers = encoding.atomic_numbers
        velocities, moves = self.denoised(noisy, frac, steps, told, mask, numbers)
        with full_precision(frac):
            weights = self._weights(steps, frac)
            of_atoms = (weights * (velocities.atoms - wanted.atoms).square()).mean(-1)
            atoms = atom_means(of_atoms, mask).mean()
            cell = (weights * (velocities.cell - wanted.cell).square()).mean()
            errors = remove_mean(moves - displacement, mask).square().mean(-1)
            position = atom_means(errors, mask).mean()
            loss = (
                self.config.type_loss * atoms
                + self.config.lattice_loss * cell
                + self.config.position_loss * position
            )
        return {"loss": loss, "atoms": atoms, "cell": cell, "position": position}

    def _weights(self, steps: Tensor, like: Tensor) -> Tensor:
        """Return weights (B, 1, 1) of squared errors of latents' velocities."""
        signal, sigma = self.process.levels(steps, like)
        if self.config.snr_cap is None:
            # ε is sqrt(ᾱ) v and what is known, so that its errors are those of v times sqrt(ᾱ).
            return signal.square()
        # Where there is hardly any noise, it can't be seen.
        return (self.config.snr_cap * (sigma / signal).square()).clamp_max(1)
