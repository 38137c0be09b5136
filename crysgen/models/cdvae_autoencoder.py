"""The latent space of CDVAE: encoder, what is read from z, and its prior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crysgen.diffusion.lattice import (
    lattice_from_parameters,
    lattice_parameters,
    normalize_lengths,
    restore_lengths,
)
from crysgen.models.base import Model
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.cdvae_contents import likeliest_amounts
from crysgen.models.cdvae_decoders import DECODERS
from crysgen.models.cdvae_encoders import ENCODERS
from crysgen.models.cdvae_inputs import perceptron
from crysgen.models.cdvae_latents import Distribution, Flow, LatentHead
from crysgen.models.cdvae_process import NoiseLevels
from crysgen.models.cdvae_types import whole_amounts
from crysgen.models.stoichiometries import parsed
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER
from crysgen.training.batch import Batch

_FLOW_STEPS = 40
"""Of the flow that draws latents, by Heun's method; a small part of a sample's cost."""


class Encoding(NamedTuple):
    """A batch on its way into the latent space.

    Attributes:
        atomic_numbers: (B, N).
        frac_coords: (B, N, 3).
        lattices: (B, 3, 3) in Å.
        neighbours: for the encoder.
        noise: (B, D) normal numbers.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattices: Tensor
    neighbours: Any
    noise: Tensor


class CrystalAutoencoder(Model):
    """The networks of CDVAE, and all that needs no noise.

    Args:
        config: with statistics of the training data.
    """

    config: CDVAEConfig

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.latent_channels, config.hidden_channels
        self.encoder = ENCODERS[config.encoder](config.encoder_settings)
        self.head = LatentHead(self.encoder.channels, hidden, width)
        self.decoder = DECODERS[config.decoder](config.decoder_settings, width, config.told_level)
        self.of_composition = perceptron(width, hidden, MAX_ATOMIC_NUMBER)
        self.of_lattice = perceptron(width, hidden, 6)
        self.of_count = perceptron(width, hidden, config.most_atoms)
        self.of_property = perceptron(width, hidden, 1) if config.property_name else None
        self.prior = Flow(width, config.prior_channels)
        self._formulas = parsed(config.formulas)
        self.levels = NoiseLevels(config.levels, config.position_sigmas, config.type_sigmas)

    @property
    def has_static_shapes(self) -> bool:
        """See `Prepares`."""
        return self.encoder.static

    def distribution(self, encoding: Encoding) -> Distribution:
        """Return the distributions of z of crystals."""
        numbers, frac, lattices, neighbours, _ = encoding
        nodes = self.encoder(numbers, frac, lattices, neighbours)
        found: Distribution = self.head(nodes, numbers > 0)
        return found

    def standardised(self, lattices: Tensor, counts: Tensor) -> Tensor:
        """Return lattice parameters (B, 6) of cells (B, 3, 3), standardised."""
        parameters = scaled_parameters(lattices, counts)
        mean, std = self._lattice_statistics(parameters)
        return (parameters - mean) / std

    def _lattice_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        # Filled on the device: a copy of host memory would make a GPU wait.
        mean, std = self.config.lattice_mean or (0.0,) * 6, self.config.lattice_std or (1.0,) * 6
        both = [[like.new_full((), x) for x in numbers] for numbers in (mean, std)]
        return torch.stack(both[0]), torch.stack(both[1])

    def properties(self, batch: Batch) -> Tensor:
        """Return the property (B,), standardised; NaN where it is not known."""
        values = batch.properties.get(self.config.property_name)
        if values is None or not self.config.property_std:
            return torch.full_like(batch.lattices[:, 0, 0], float("nan"))
        return (values - self.config.property_mean) / self.config.property_std

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """See `Encodes`: the means (B, D) of z."""
        like = next(self.parameters())
        crystals = batch.to(like.device, like.dtype)
        numbers, frac, lattices = crystals.atomic_numbers, crystals.frac_coords, crystals.lattices
        neighbours = self.encoder.search(numbers, frac, lattices)
        noise = lattices.new_zeros(len(batch), self.config.latent_channels)
        return self.distribution(Encoding(numbers, frac, lattices, neighbours, noise)).mean

    def property_of(self, latents: Tensor) -> Tensor:
        """Predict the property (B,) of latents (B, D), differentiably.

        Raises:
            ValueError: if the model was trained without one.
        """
        if self.of_property is None or not self.config.property_std:
            raise ValueError("the model was trained without a property")
        found = self.of_property(latents)[:, 0]
        return found * self.config.property_std + self.config.property_mean

    @torch.no_grad()
    def contents(self, latents: Tensor, num_atoms: Tensor | None = None) -> Tensor:
        """Predict how many atoms (B, Z) of each element there are.

        Args:
            latents: (B, D).
            num_atoms: (B,) int64 of all elements, 0 where they are predicted as well.
        """
        shares, sizes = self.of_composition(latents), self.of_count(latents)
        likeliest = sizes.argmax(-1) + 1
        told = torch.zeros_like(likeliest) if num_atoms is None else num_atoms
        if self.config.predicted_composition and self._formulas:
            logarithms = shares.log_softmax(-1), sizes.log_softmax(-1)
            return likeliest_amounts(*logarithms, self._formulas, told)
        return whole_amounts(shares.softmax(-1), torch.where(told > 0, told, likeliest))

    def sizes(self, latents: Tensor) -> Tensor:
        """Predict the numbers of atoms (B,) of latents (B, D)."""
        return self.contents(latents).sum(1)

    @torch.no_grad()
    def cells(self, latents: Tensor, counts: Tensor) -> Tensor:
        """Predict the cells (B, 3, 3) in Å of latents (B, D) and numbers of atoms (B,)."""
        raw = self.of_lattice(latents)
        mean, std = self._lattice_statistics(raw)
        return restore_lengths(lattice_from_parameters(raw * std + mean), counts)

    @torch.no_grad()
    def draw_latents(self, noise: Tensor) -> Tensor:
        """Return latents (B, D) of the prior from normal numbers (B, D)."""
        if self.config.prior == "normal":
            return noise
        points, size = noise, 1 / _FLOW_STEPS
        for step in range(_FLOW_STEPS):
            now = torch.full_like(noise[:, 0], step * size)
            first = self.prior(points, now)
            second = self.prior(points + size * first, now + size)
            points = points + size * (first + second) / 2
        return points


def scaled_parameters(lattices: Tensor, counts: Tensor) -> Tensor:
    """Compute lattice parameters (B, 6), lengths divided by N^(1/3)."""
    return lattice_parameters(normalize_lengths(lattices, counts.clamp_min(1)))
