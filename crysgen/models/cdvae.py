"""CDVAE: a variational autoencoder of crystals whose decoder denoises positions and types.

Xie, Fu, Ganea, Barzilay and Jaakkola, "Crystal Diffusion Variational Autoencoder for Periodic
Material Generation", ICLR 2022: Section 4, Algorithm 1 and Appendices B and D, and what it adds:
faster samplers, a flow as prior of the latents, and space groups. Equation 2 and Algorithm 1 are
taken as the authors' program has them: α_j = ε (σ_j / σ_L)², half the squared error of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from crysgen.diffusion.noise import Noise
from crysgen.diffusion.positions import uniform
from crysgen.diffusion.space_groups import GroupTensors, place_orbits, stack_drawn
from crysgen.diffusion.torus import remove_mean, wrap
from crysgen.matrices import inverses
from crysgen.models.base import OnStep, walked
from crysgen.models.cdvae_config import CDVAEConfig
from crysgen.models.cdvae_decoders import Denoised
from crysgen.models.cdvae_groups import atoms_of, fitting_latent
from crysgen.models.cdvae_process import drawn_types, move_sizes, plan
from crysgen.models.cdvae_training import TrainableAutoencoder
from crysgen.models.cdvae_types import assigned_types
from crysgen.models.targets import Target
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER
from crysgen.training.batch import Batch, pad_atomic_numbers
from crysgen.wyckoff.draws import draw_orbits


class _State(NamedTuple):
    """Crystals on the way back.

    Attributes:
        atomic_numbers: (B, N); 0 is padding.
        frac_coords: (B, N, 3).
        logits: (B, N, 118) of the last prediction of types.
        latents: (B, D).
        composition: (B, 118) shares of elements that z predicts.
        amounts: (B, 118) int64 atoms of each element of the likeliest formula.
        lattices: (B, 3, 3) in Å.
        space_groups: that the crystals keep to, if any; atoms then stay on their orbits.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    logits: Tensor
    latents: Tensor
    composition: Tensor
    amounts: Tensor
    lattices: Tensor
    space_groups: GroupTensors | tuple[()] = ()


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


class CDVAE(TrainableAutoencoder):
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
    accepts = frozenset({"num_atoms", "latent", "space_group"})
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
        """See `Stepwise`. z comes from the prior where it is not told (lines 1 to 4).

        With space groups, the atoms that z predicts are placed on orbits, where they stay.
        """
        like = next(self.parameters())
        latents = self._latents(targets, like)
        amounts = self._amounts(targets, latents)
        counts = amounts.sum(1)
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
        group: GroupTensors | tuple[()] = ()
        if any(target.space_group for target in targets):
            placed = [
                draw_orbits(target.space_group or 1, numbers, target.seed)
                for target, numbers in zip(targets, atoms_of(amounts), strict=True)
            ]
            drawn = pad_atomic_numbers([one.atomic_numbers for one in placed]).to(like.device)
            group = stack_drawn(placed, size, like.device)
            frac = place_orbits([one.orbits for one in placed], frac)
            cells = group.project_lattices(cells)
        way = []
        for numbers_of_step, (_, draw) in zip(numbers, draws, strict=True):
            jitter = draw[..., :3]
            if self.config.centred:
                jitter = remove_mean(jitter, mask)
            share, gain, width, sigma = (zeros.new_full((), x) for x in numbers_of_step)
            way.append(_Step(share, gain, sigma, width * jitter, uniform(draw[..., 3])))
        return _State(drawn * mask, frac, logits, latents, composition, amounts, cells, group), way

    def _latents(self, targets: Sequence[Target], like: Tensor) -> Tensor:
        """Return z (B, D) as told, or drawn."""
        rows = []
        for target in targets:
            if target.latent is not None:
                if len(target.latent) != self.config.latent_channels:
                    raise ValueError(f"latents have {self.config.latent_channels} numbers")
                rows.append(torch.tensor(target.latent, dtype=torch.float32))
            else:
                rows.append(self._latent_noise(target, like))
        noise = torch.stack(rows).to(like)
        told = torch.tensor([target.latent is not None for target in targets], device=like.device)
        if bool(told.all()):
            return noise
        return torch.where(told[:, None], noise, self.draw_latents(noise))

    def _latent_noise(self, target: Target, like: Tensor) -> Tensor:
        """Draw normal numbers (D,) of a z; with a space group, one whose atoms have a place."""
        # Apart from the noise of positions, which begins anew with the same seed.
        generator = torch.Generator().manual_seed(target.seed ^ _LATENT_STREAM)
        channels = self.config.latent_channels
        if target.space_group is None:
            return torch.randn(channels, generator=generator)

        def decoded(noise: Tensor) -> list[tuple[int, ...]]:
            latents = self.draw_latents(noise.to(like))
            return atoms_of(self._amounts([target] * len(noise), latents))

        return fitting_latent(
            target.space_group, lambda count: torch.randn(count, channels, generator=generator),
            decoded,
        )  # fmt: skip

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

    def _amounts(self, targets: Sequence[Target], latents: Tensor) -> Tensor:
        """Return how many atoms (B, Z) of each element there are, of as many as is told."""
        told = torch.tensor([target.num_atoms or 0 for target in targets], device=latents.device)
        return self.contents(latents, told)

    @torch.no_grad()
    def step(self, state: _State, inputs: _Step) -> _State:
        """See `Stepwise`: lines 8 to 13."""
        mask = state.atomic_numbers > 0
        moves, logits = self._denoised(state, inputs.share)
        moved = (inputs.gain * moves + inputs.jitter)[..., None, :]
        steps = (moved @ inverses(state.lattices)[:, None])[..., 0, :]
        if state.space_groups:
            group = state.space_groups
            frac = state.frac_coords + group.project_displacements(steps)
            return state._replace(frac_coords=wrap(group.project_frac_coords(frac)), logits=logits)
        frac = wrap(state.frac_coords + steps)
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
        """See `Stepwise`. The types are the likeliest of the last prediction (line 13).

        Crystals of a space group come in its conventional cells.
        """
        if state.space_groups:
            cells = state.lattices.double()
            return Batch(*state.space_groups.conventional_cells(state.frac_coords, cells))
        mask = state.atomic_numbers > 0
        types = state.logits.argmax(-1) + 1
        if self.config.predicted_composition:
            types = assigned_types(state.logits, state.amounts, mask)
        return Batch(types * mask, state.frac_coords * mask[..., None], state.lattices.double())


_LATENT_STREAM = 0x5D1E7
"""Set apart from a crystal's noise: the random numbers of its z."""
