"""CDVAE: a variational autoencoder of crystals whose decoder denoises positions and types.

Xie, Fu, Ganea, Barzilay and Jaakkola, "Crystal Diffusion Variational Autoencoder for Periodic
Material Generation", ICLR 2022: Section 4, Algorithm 1 and Appendices B and D, and what it adds:
faster samplers, and a flow as prior of the latents. Equation 2 and Algorithm 1 are taken as the
authors' program has them: α_j = ε (σ_j / σ_L)², half the squared error of scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from crysgen.diffusion.noise import Noise, spread_steps
from crysgen.diffusion.positions import uniform
from crysgen.diffusion.torus import remove_mean, wrap
from crysgen.matrices import inverses
from crysgen.models.base import OnStep, walked
from crysgen.models.cdvae_autoencoder import (
    CrystalAutoencoder,
    Encoding,
    full_precision,
    scaled_parameters,
)
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.cdvae_networks import Denoised, full
from crysgen.models.cdvae_process import drawn_types, move_sizes, noised_types, plan
from crysgen.models.cdvae_types import assigned_types
from crysgen.models.crysldm_networks import atom_means
from crysgen.models.targets import Target
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER
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


class _State(NamedTuple):
    """Crystals on the way back.

    Attributes:
        atomic_numbers: (B, N); 0 is padding.
        frac_coords: (B, N, 3).
        logits: (B, N, 118) of the last prediction of types.
        latents: (B, D).
        composition: (B, 118) shares that z predicts.
        lattices: (B, 3, 3) in Å.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    logits: Tensor
    latents: Tensor
    composition: Tensor
    lattices: Tensor


class _Step(NamedTuple):
    """One step of sampling but for the crystals.

    Attributes:
        share: () place among the noise levels.
        gain: () Å.
        type_sigma: () σ_A after the step.
        jitter: (B, N, 3) in Å.
        uniform: (B, N) numbers that decide types.
    """

    share: Tensor
    gain: Tensor
    type_sigma: Tensor
    jitter: Tensor
    uniform: Tensor


class CDVAE(CrystalAutoencoder):
    """An autoencoder of crystals, and a prior of its latents.

    Args:
        config: with statistics of the training data.
    """

    kind: ClassVar[str] = "cdvae"
    paper: ClassVar[str] = (
        "CDVAE (Xie et al., Crystal Diffusion Variational Autoencoder for Periodic Material "
        "Generation, ICLR 2022)"
    )
    Config = CDVAEConfig
    accepts = frozenset({"num_atoms", "latent"})
    stages = (AUTOENCODER, PRIOR)
    sampling_settings = frozenset(
        {
            "sampler",
            "steps_per_level",
            "step_size",
            "noise",
            "type_steps",
            "predicted_composition",
            "prior",
        }
    )

    config: CDVAEConfig

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__(config)
        self._known_sizes: dict[tuple[str, Target], int] = {}

    @property
    def num_steps(self) -> int:
        """L T of Algorithm 1; of the other samplers as many levels as that."""
        return self.config.levels * self.config.steps_per_level

    @classmethod
    def fitted(cls, config: CDVAEConfig, train: Batch) -> CDVAEConfig:
        """Return the configuration with the statistics of cells, sizes and the property."""
        parameters = scaled_parameters(train.lattices.double(), train.num_atoms)
        known = train.properties.get(config.property_name, train.lattices.new_zeros(0)).double()
        known = known[known.isfinite()]
        some = len(known) > 1
        return replace(
            config,
            lattice_mean=tuple(parameters.mean(0).tolist()),
            lattice_std=tuple(_std(parameters).clamp_min(_LEAST_STD).tolist()),
            most_atoms=max(config.most_atoms, int(train.num_atoms.max())),
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

    # --- training -----------------------------------------------------------------------------

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

    # --- the latent space ----------------------------------------------------------------------

    def decode(self, latents: Tensor, seeds: Sequence[int]) -> Batch:
        """See `Encodes`."""
        vectors = [tuple(vector) for vector in latents.double().tolist()]
        targets = [Target(s, latent=z) for s, z in zip(seeds, vectors, strict=True)]
        return self.sample(targets)

    # --- sampling -------------------------------------------------------------------------------

    def sample(
        self,
        targets: Sequence[Target],
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Batch:
        """Sample crystals by Algorithm 1 or a faster sampler; see `Model.sample`."""
        return walked(self, *self.begin(targets, steps), on_step)

    @torch.no_grad()
    def begin(
        self, targets: Sequence[Target], steps: int | None = None
    ) -> tuple[_State, list[_Step]]:
        """See `Stepwise`. z comes from the prior where it is not told (lines 1 to 4)."""
        like = next(self.parameters())
        latents = self._latents(targets, like)
        counts = self._counts(targets, latents)
        chosen = plan(self.levels, self.config, self.num_steps if steps is None else steps)
        numbers = list(chosen)
        size = int(counts.max())
        mask = torch.arange(size, device=like.device) < counts[:, None]
        zeros = torch.zeros(*mask.shape, 3, dtype=like.dtype, device=like.device)
        seeds = [target.seed for target in targets]
        noise = Noise(seeds, counts, 0, 1 + len(numbers), 4)
        draws = noise.rest(zeros)
        composition = self.of_composition(latents).softmax(-1)
        first = next(draws)[1]
        frac = uniform(first[..., :3]) * mask[..., None]
        drawn = drawn_types(composition[:, None], uniform(first[..., 3]))
        logits = zeros.new_zeros(*mask.shape, MAX_ATOMIC_NUMBER)
        cells = self.cells(latents, counts)
        way = []
        for numbers_of_step, (_, draw) in zip(numbers, draws, strict=True):
            jitter = draw[..., :3]
            if self.config.centred:
                jitter = remove_mean(jitter, mask)
            share, gain, width, sigma = (zeros.new_full((), x) for x in numbers_of_step)
            way.append(_Step(share, gain, sigma, width * jitter, uniform(draw[..., 3])))
        return _State(drawn * mask, frac, logits, latents, composition, cells), way

    def _latents(self, targets: Sequence[Target], like: Tensor) -> Tensor:
        """Return z (B, D) as told, or drawn."""
        rows = []
        for target in targets:
            if target.latent is not None:
                if len(target.latent) != self.config.latent_channels:
                    raise ValueError(f"latents have {self.config.latent_channels} numbers")
                rows.append(torch.tensor(target.latent, dtype=torch.float32))
            else:
                # Apart from the noise of positions, which begins anew with the same seed.
                generator = torch.Generator().manual_seed(target.seed ^ _LATENT_STREAM)
                rows.append(torch.randn(self.config.latent_channels, generator=generator))
        noise = torch.stack(rows).to(like)
        told = torch.tensor([target.latent is not None for target in targets], device=like.device)
        if bool(told.all()):
            return noise
        return torch.where(told[:, None], noise, self.draw_latents(noise))

    def size_of(self, target: Target) -> int | None:
        """See `Model`: what z predicts, where that is not asked of a GPU crystal by crystal."""
        if target.size is not None or self.device.type != "cpu":
            return target.size
        key = (self.config.prior, target)
        if key not in self._known_sizes:
            with torch.no_grad():
                latents = self._latents([target], next(self.parameters()))
            self._known_sizes[key] = int(self.sizes(latents)[0])
        return self._known_sizes[key]

    def _counts(self, targets: Sequence[Target], latents: Tensor) -> Tensor:
        """Return the numbers of atoms (B,) as told, or predicted."""
        told = torch.tensor([target.num_atoms or 0 for target in targets], device=latents.device)
        return torch.where(told > 0, told, self.sizes(latents))

    @torch.no_grad()
    def step(self, state: _State, inputs: _Step) -> _State:
        """See `Stepwise`: lines 8 to 13."""
        mask = state.atomic_numbers > 0
        moves, logits = self._denoised(state, inputs.share)
        moved = (inputs.gain * moves + inputs.jitter)[..., None, :]
        frac = wrap(state.frac_coords + (moved @ inverses(state.lattices)[:, None])[..., 0, :])
        if self.config.type_steps == "likeliest":
            types = logits.argmax(-1) + 1
        else:
            # A type drawn from the prediction, and noised again, at once.
            stay = 1 / (1 + inputs.type_sigma)
            chances = stay * logits.softmax(-1) + (1 - stay) * state.composition[:, None]
            types = drawn_types(chances, inputs.uniform)
        return state._replace(atomic_numbers=types * mask, frac_coords=frac, logits=logits)

    def _denoised(self, state: _State, share: Tensor) -> Denoised:
        mask = state.atomic_numbers > 0
        neighbours = self.decoder.search(state.frac_coords, state.lattices, mask)
        shares = share.expand(len(mask)) if self.config.told_level else None
        moves, logits = self.decoder(
            state.latents,
            state.atomic_numbers,
            state.frac_coords,
            state.lattices,
            shares,
            neighbours,
        )
        if self.config.scaled:
            sigma = self.levels.positions_at(share).to(moves)
            moves = moves * move_sizes(sigma, state.lattices)
        moves = remove_mean(moves, mask) if self.config.centred else moves * mask[..., None]
        return Denoised(moves, logits)

    @torch.no_grad()
    def finish(self, state: _State) -> Batch:
        """See `Stepwise`. The types are the likeliest of the last prediction (line 13)."""
        mask = state.atomic_numbers > 0
        types = state.logits.argmax(-1) + 1
        if self.config.predicted_composition:
            types = assigned_types(state.logits, state.composition, mask)
        return Batch(types * mask, state.frac_coords * mask[..., None], state.lattices.double())


_LATENT_STREAM = 0x5D1E7
"""Set apart from a crystal's noise: the random numbers of its z."""


def _std(values: Tensor) -> Tensor:
    return values.std(0, unbiased=False)
