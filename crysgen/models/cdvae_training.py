"""CDVAE in training: noise on crystals, the loss of Eq. 9, and that of the prior."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from crysgen.diffusion.noise import spread_steps
from crysgen.diffusion.torus import remove_mean
from crysgen.models.cdvae_autoencoder import (
    CrystalAutoencoder,
    Encoding,
    scaled_parameters,
)
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.cdvae_process import move_sizes, noised_types
from crysgen.models.crysldm_networks import atom_means
from crysgen.models.stoichiometries import count_stoichiometries
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER
from crysgen.networks.precision import full, full_precision
from crysgen.training.batch import Batch

AUTOENCODER, PRIOR = "autoencoder", "prior"

_LEAST_STD = 0.02
"""Of a lattice parameter: where all training crystals agree, errors are not worth more."""


class _Noising(NamedTuple):
    """A batch on its way through the autoencoder.

    Attributes:
        encoding: of the clean crystals.
        parameters: (B, 6) of their cells, standardised.
        properties: (B,), standardised; NaN where it is not known.
        levels: (B,) int.
        frac_coords: (B, N, 3) noisy.
        moves: (B, N, 3) to the clean positions, in units of σ_X.
        uniform: (B, N, 2) numbers that decide the noise of types.
        neighbours: for the decoder.
    """

    encoding: Encoding
    parameters: Tensor
    properties: Tensor
    levels: Tensor
    frac_coords: Tensor
    moves: Tensor
    uniform: Tensor
    neighbours: Any


class _Flowing(NamedTuple):
    """A batch on its way to the prior.

    Attributes:
        encoding: of the crystals.
        start: (B, D) normal numbers that the flow begins at.
        time: (B,) between 0 and 1.
    """

    encoding: Encoding
    start: Tensor
    time: Tensor


class TrainableAutoencoder(CrystalAutoencoder):
    """The autoencoder with the losses of both its stages.

    Args:
        config: with statistics of the training data.
    """

    stages = (AUTOENCODER, PRIOR)

    @classmethod
    def fitted(cls, config: CDVAEConfig, train: Batch) -> CDVAEConfig:
        """Return the configuration with the statistics of cells, formulas and the property."""
        parameters = scaled_parameters(train.lattices.double(), train.num_atoms)
        known = train.properties.get(config.property_name, train.lattices.new_zeros(0)).double()
        known = known[known.isfinite()]
        some = len(known) > 1
        return replace(
            config,
            lattice_mean=tuple(parameters.mean(0).tolist()),
            lattice_std=tuple(_std(parameters).clamp_min(_LEAST_STD).tolist()),
            most_atoms=max(config.most_atoms, int(train.num_atoms.max())),
            formulas=count_stoichiometries(train.atomic_numbers),
            property_mean=float(known.mean()) if some else 0.0,
            property_std=max(float(_std(known)), 1e-6) if some else 0.0,
        )

    def parameters_of(self, stage: str) -> Iterable[nn.Parameter]:
        """See `Model`."""
        prior = list(self.prior.parameters())
        if stage == PRIOR:
            return prior
        others = {id(parameter) for parameter in prior}
        return [p for p in self.parameters() if id(p) not in others]

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, stage: str = AUTOENCODER
    ) -> dict[str, Tensor]:
        """Compute the loss of Eq. 9, or of the prior.

        Returns:
            Of the autoencoder `loss`, its parts without their weights, `composition`, `lattice`,
            `count`, `position`, `types`, `kl` and `property`, and the shares of crystals whose
            number of atoms and whose formula are predicted from z, `count_right` and
            `formula_right`. Of the prior `loss`.
        """
        return self.prepared_loss(self.prepare(batch, generator, stage), stage)

    @torch.no_grad()
    def prepare(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        stage: str = AUTOENCODER,
        parts: int = 1,
    ) -> _Noising | _Flowing:
        """See `Prepares`; levels are spread evenly over each of `parts` batches of equal size."""
        device, lattices, mask = batch.lattices.device, batch.lattices, batch.mask
        size, width = len(batch), self.config.latent_channels

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(lattices)

        with full_precision(lattices):
            neighbours = self.encoder.search(batch.atomic_numbers, batch.frac_coords, lattices)
            encoding = Encoding(
                batch.atomic_numbers, batch.frac_coords, lattices, neighbours, normal(size, width)
            )
            if stage == PRIOR:
                time = torch.rand(size, generator=generator, device=device).to(lattices)
                return _Flowing(encoding, normal(size, width), time)
            total, share = len(self.levels), size // parts
            levels = torch.cat(
                [spread_steps(share, total, generator, device) for _ in range(parts)]
            )
            noisy, moves = self.levels.noised(
                batch.frac_coords,
                lattices,
                mask,
                levels - 1,
                normal(*batch.frac_coords.shape),
                self.config.centred,
            )
            numbers = torch.rand((*mask.shape, 2), generator=generator, device=device)
            return _Noising(
                encoding,
                self.standardised(lattices, mask.sum(1)),
                self.properties(batch),
                levels - 1,
                noisy,
                moves,
                numbers.to(lattices),
                self.decoder.search(noisy, lattices, mask),
            )

    def prepared_loss(
        self, prepared: _Noising | _Flowing, stage: str = AUTOENCODER
    ) -> dict[str, Tensor]:
        """See `Prepares`."""
        if isinstance(prepared, _Flowing):
            return self._prior_loss(prepared)
        return self._autoencoder_loss(prepared)

    def _autoencoder_loss(self, noising: _Noising) -> dict[str, Tensor]:
        """Compute the means over crystals of all parts of Eq. 9."""
        encoding, config = noising.encoding, self.config
        numbers, lattices = encoding.atomic_numbers, encoding.lattices
        mask = numbers > 0
        counts = mask.sum(1)
        distribution = self.distribution(encoding)
        latents = distribution.sample(encoding.noise)
        predicted = full(self.of_composition(latents))
        cell = full(self.of_lattice(latents))
        sizes = full(self.of_count(latents))
        composition = predicted.detach().softmax(-1)
        sigma = self.levels.types[noising.levels].to(lattices)
        noisy = noised_types(numbers, composition, sigma, noising.uniform)
        shares = self.levels.shares(noising.levels) if config.told_level else None
        moves, logits = self.decoder(
            latents, noisy, noising.frac_coords, lattices, shares, noising.neighbours
        )
        with full_precision(lattices):
            true = one_hot((numbers - 1).clamp_min(0), MAX_ATOMIC_NUMBER) * mask[..., None]
            amounts = true.sum(1)
            of_atoms = (amounts / counts[:, None]).to(lattices)
            wanted = noising.moves
            if config.scaled:
                width = self.levels.positions[noising.levels].to(lattices)
                wanted = wanted / move_sizes(width, lattices)
            errors = moves - wanted
            if config.centred:
                errors = remove_mean(errors, mask)
            surprise = cross_entropy(logits.mT, (numbers - 1).clamp_min(0), reduction="none")
            weights = 1 / sigma if config.type_weights == "inverse" else torch.ones_like(sigma)
            rounded = (composition * counts[:, None]).round()
            parts = {
                "composition": -(of_atoms * predicted.log_softmax(-1)).sum(-1).mean(),
                "lattice": (cell - noising.parameters).square().mean(),
                "count": cross_entropy(sizes, counts - 1),
                "position": atom_means(errors.square().sum(-1) / 2, mask).mean(),
                "types": (weights * atom_means(surprise, mask)).mean(),
                "kl": distribution.divergence().mean(),
                "property": self._property_loss(latents, noising.properties),
            }
            loss = (
                config.composition_weight * parts["composition"]
                + config.lattice_weight * parts["lattice"]
                + config.count_weight * parts["count"]
                + config.position_weight * parts["position"]
                + config.type_weight * parts["types"]
                + config.kl_weight * parts["kl"]
                + config.property_weight * parts["property"]
            )
            right = {
                "count_right": (sizes.argmax(-1) == counts - 1).to(lattices).mean(),
                "formula_right": (rounded == amounts).all(-1).to(lattices).mean(),
            }
        return {"loss": loss, **parts, **right}

    def _property_loss(self, latents: Tensor, wanted: Tensor) -> Tensor:
        """Compute the mean squared error of the property over crystals that have it."""
        if self.of_property is None:
            return latents.new_zeros(())
        known = wanted.isfinite()
        errors = full(self.of_property(latents))[:, 0] - torch.where(known, wanted, 0.0)
        return (errors.square() * known).sum() / known.sum().clamp_min(1)

    def _prior_loss(self, flowing: _Flowing) -> dict[str, Tensor]:
        """Compute the error of the flow's velocities, per number."""
        with torch.no_grad():
            end = self.distribution(flowing.encoding).sample(flowing.encoding.noise)
        time = flowing.time[:, None]
        velocities = self.prior((1 - time) * flowing.start + time * end, flowing.time)
        with full_precision(end):
            return {"loss": (velocities - (end - flowing.start)).square().mean()}


def _std(values: Tensor) -> Tensor:
    return values.std(0, unbiased=False)
