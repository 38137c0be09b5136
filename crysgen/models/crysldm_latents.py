"""What CrysLDM's training and sampling have in common: its networks, and the latent space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from crysgen.diffusion.lattice import log_lattice, normalize_lengths
from crysgen.models.base import Model
from crysgen.models.crysldm_config import CrysLDMConfig, cell_form, diffusion
from crysgen.models.crysldm_networks import (
    Decoder,
    Denoiser,
    Encoder,
    Latents,
    LatentScale,
    group_means,
)
from crysgen.models.stoichiometries import count_stoichiometries
from crysgen.networks.cspnet import CSPNet
from crysgen.networks.precision import full_precision
from crysgen.training.batch import Batch

AUTOENCODER, DIFFUSION = "autoencoder", "diffusion"


class LatentModel(Model):
    """An autoencoder, a denoiser of its latents, and their process.

    Args:
        config: with scale and sizes of the training data.
    """

    Config = CrysLDMConfig
    stages = (AUTOENCODER, DIFFUSION)

    config: CrysLDMConfig

    def __init__(self, config: CrysLDMConfig) -> None:
        super().__init__()
        self.config = config
        latent, outer = config.latent_channels, config.autoencoder_settings
        form = self.form = cell_form(config)
        self.encoder = Encoder(CSPNet(**outer), latent, form)
        self.decoder = Decoder(CSPNet(**outer), latent, form)
        self.scale = LatentScale(latent, form)
        inner = config.denoiser_settings | ({"same": True} if config.stoichiometry else {})
        self.denoiser = Denoiser(CSPNet(**inner), latent, form)
        self.process = diffusion(config)

    @property
    def num_steps(self) -> int:
        """T, the paper's integration steps; with the corrector each calls the network twice."""
        return self.config.steps

    @classmethod
    def fitted(cls, config: CrysLDMConfig, train: Batch) -> CrysLDMConfig:
        """Return the configuration with the statistics of cells and the numbers of atoms."""
        cells = normalize_lengths(train.lattices.double(), train.num_atoms)
        logarithms = log_lattice(cells)
        return replace(
            config,
            lattice_scale=float(cells.square().mean().sqrt()),
            lattice_mean=tuple(logarithms.mean(0).tolist()),
            lattice_std=tuple(logarithms.std(0, correction=0).clamp_min(1e-3).tolist()),
            atom_counts=tuple(torch.bincount(train.num_atoms)[1:].tolist()),
            formulas=count_stoichiometries(train.atomic_numbers) if config.stoichiometry else {},
        )

    def parameters_of(self, stage: str) -> Iterable[nn.Parameter]:
        """See `Model`."""
        if stage == DIFFUSION:
            return self.denoiser.parameters()
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    @torch.no_grad()
    def begin_stage(self, stage: str, train: Iterable[Batch]) -> None:
        """See `Model`: latents are measured before the diffusion."""
        if stage != DIFFUSION or not self.config.standardize_latents:
            return
        atoms, cells = [], []
        for batch in train:
            found = self._means(batch)
            atoms.append(found.atoms[batch.mask])
            cells.append(found.cell)
        self.scale.fit(torch.cat(atoms), torch.cat(cells))

    @torch.no_grad()
    def encoded(self, batch: Batch) -> Latents:
        """Return the mean latents of crystals, which with positions are all that is decoded."""
        return self.scale.standardized(self._means(batch))

    def _means(self, batch: Batch) -> Latents:
        """Return the mean latents of crystals as the autoencoder has them."""
        frac, mask = batch.frac_coords, batch.mask
        found = self.encoder(batch.atomic_numbers, frac, self.cells_of(batch), mask).mean
        return Latents(found.atoms * mask[..., None], found.cell)

    @torch.no_grad()
    def decoded(
        self,
        latents: Latents,
        frac_coords: Tensor,
        mask: Tensor,
        told: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Batch:
        """Return the crystals of latents and positions, right-handed.

        Args:
            latents: of B crystals.
            frac_coords: (B, N, 3).
            mask: (B, N) where atoms are.
            told: (B, N) atomic numbers that are known; 0 where they are decoded.
            groups: (B, N) equal numbers for atoms of one element, where that is known.
        """
        logits, cells = self.decoder(self.scale.restored(latents), frac_coords, mask)
        if groups is not None:
            logits = group_means(logits, groups)
        numbers = logits.argmax(-1) + 1
        if told is not None:
            numbers = torch.where(told > 0, told, numbers)
        lattices = self.form.decode(cells, mask.sum(1))
        return Batch(numbers * mask, frac_coords * mask[..., None], lattices)

    def denoised(
        self,
        noisy: Latents,
        frac_coords: Tensor,
        steps: Tensor,
        told: Tensor,
        mask: Tensor,
        groups: Tensor,
    ) -> tuple[Latents, Tensor]:
        """Call the denoiser; see there."""
        lattices = None
        if self.denoiser.network.radial:
            with torch.no_grad(), full_precision(frac_coords):
                signal, _ = self.process.levels(steps, frac_coords)
                # Of latents of mean 0 and variance 1 that is what is expected of clean ones.
                expected = self.scale.restored(Latents(noisy.atoms, signal * noisy.cell)).cell
                lattices = self.form.decode(expected, mask.sum(1)).to(frac_coords)
        share = (steps / self.num_steps).to(frac_coords)
        return self.denoiser(noisy, frac_coords, share, told, mask, lattices, groups)

    def cells_of(self, batch: Batch) -> Tensor:
        """Return cells (B, R, C) as networks see them."""
        return self.form.encode(batch.lattices, batch.num_atoms)
