"""Configuration of CrysLDM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from crysgen.config_values import at_least, positive
from crysgen.models.base import ModelConfig
from crysgen.networks.base import LARGEST_NETWORK, check_settings
from crysgen.networks.cspnet import CSPNet

_MOST_STEPS = 100_000
_LARGEST = 1e6


@dataclass(frozen=True)
class CrysLDMConfig(ModelConfig):
    """Everything that decides a CrysLDM model beside its weights.

    Attributes:
        autoencoder_settings: keyword arguments of `CSPNet` in encoder and decoder.
        denoiser_settings: the same of the denoiser.
        latent_channels: D, numbers of an atom in the latent space.
        lattice_weight: of the squared error of the cell, summed over its entries in units of
            `lattice_scale`, beside the cross-entropy of an atom's type.
        kl_weight: λ of Eq. 5.
        steps: T.
        latent_betas: (β_1, β_T) of the latents; linear.
        position_sigmas: (σ_1, σ_T) of positions; geometric.
        type_loss: λ_A.
        lattice_loss: λ_L.
        position_loss: λ_X.
        told_share: of the training crystals whose composition the denoiser is told, so that it can
            make crystals of a composition; 0 for the paper's model, which makes none.
        lattice_scale: root mean square of the entries of the training data's cells divided by
            N^(1/3), in Å (set by training).
        atom_counts: training crystals with 1, 2, ... atoms (set by training).
        latent_noise: factor of the noise that sampling adds to latents on the way back: 1 is the
            paper's, 0 deterministic (DDIM).
        position_noise: the same for positions.
        corrector: size of the corrector's steps in units of σ²; 0 for none, which halves the
            calls of the network.
        refine_strength: share of the steps by which refinement noises a crystal.
    """

    autoencoder_settings: dict[str, Any] = field(default_factory=dict)
    denoiser_settings: dict[str, Any] = field(default_factory=dict)
    latent_channels: int = 8
    lattice_weight: float = 10.0
    kl_weight: float = 1e-3
    steps: int = 100
    latent_betas: tuple[float, float] = (1e-3, 0.2)
    position_sigmas: tuple[float, float] = (0.005, 0.5)
    type_loss: float = 1.0
    lattice_loss: float = 1.0
    position_loss: float = 1.0
    told_share: float = 0.5
    lattice_scale: float = 1.0
    atom_counts: tuple[int, ...] = ()
    latent_noise: float = 1.0
    position_noise: float = 1.0
    corrector: float = 0.4
    refine_strength: float = 0.1

    def __post_init__(self) -> None:
        for settings in (self.autoencoder_settings, self.denoiser_settings):
            check_settings(CSPNet, settings)
            with torch.device("meta"):  # takes no memory
                layer = CSPNet(**{**settings, "layers": 1})
            weights = settings.get("layers", 1) * sum(p.numel() for p in layer.parameters())
            if weights > LARGEST_NETWORK:
                raise ValueError(f"the network would have {weights:.1e} weights")
        at_least("latent_channels", self.latent_channels, 1, 1024)
        at_least("steps", self.steps, 1, _MOST_STEPS)
        first, last = self.latent_betas
        if not 0 < first <= last < 1:
            raise ValueError("latent_betas must be two numbers that rise between 0 and 1")
        first, last = self.position_sigmas
        # Wider noise is uniform, and has images that nobody sums.
        if not 0 < first <= last <= 0.7:
            raise ValueError("position_sigmas must be two numbers that rise between 0 and 0.7")
        for name in ("lattice_weight", "lattice_scale", "refine_strength"):
            positive(name, getattr(self, name), _LARGEST)
        for name in ("kl_weight", "type_loss", "lattice_loss", "position_loss", "corrector"):
            at_least(name, getattr(self, name), 0, _LARGEST)
        for name in ("told_share", "latent_noise", "position_noise", "refine_strength"):
            at_least(name, getattr(self, name), 0, 1)
        if any(count < 0 for count in self.atom_counts) or (
            self.atom_counts and not sum(self.atom_counts)
        ):
            raise ValueError("atom_counts must be numbers of crystals")
