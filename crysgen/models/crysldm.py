"""CrysLDM: latent diffusion of atoms and cell, with diffusion of positions.

Khastagir et al., "CrysLDM: Latent Diffusion Model for Crystal Material Generation", AI4Mat at ICLR
2025: Algorithms 1 and 2 with the corrections that CONTRIBUTING.md lists, and what it adds: exact
compositions, space groups, deterministic steps, and refinement of given crystals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from crysgen.diffusion.noise import Noise
from crysgen.diffusion.positions import uniform
from crysgen.diffusion.schedules import step_tensor, steps_back
from crysgen.diffusion.space_groups import GroupTensors, place_orbits, stack_drawn
from crysgen.diffusion.torus import remove_mean, shortest_path, wrap
from crysgen.models.base import OnStep, walked
from crysgen.models.crysldm_groups import allowed_latents, of_first_atoms
from crysgen.models.crysldm_networks import Latents
from crysgen.models.crysldm_process import WayBack
from crysgen.models.crysldm_training import TrainableLatentModel
from crysgen.models.stoichiometries import of_size, parsed
from crysgen.models.targets import Target
from crysgen.training.batch import Batch, pad_atomic_numbers
from crysgen.wyckoff.draws import DrawnOrbits, draw_target

_Drawn = TypeVar("_Drawn")
_COUNT_STREAM = 1
"""Set apart from a crystal's noise: the random number that decides how many atoms it has."""


class _State(NamedTuple):
    """Crystals on the way back.

    Attributes:
        mask: (B, N) where atoms are.
        told: (B, N) atomic numbers that are known; 0 where the model chooses.
        groups: (B, N) equal numbers for atoms of one element, with `stoichiometry`; 0 is padding.
        latents: noisy.
        frac_coords: (B, N, 3) noisy.
        space_groups: that the crystals keep to, if any.
    """

    mask: Tensor
    told: Tensor
    groups: Tensor
    latents: Latents
    frac_coords: Tensor
    space_groups: GroupTensors | tuple[()] = ()


class CrysLDM(TrainableLatentModel):
    """An autoencoder and a diffusion of its latents.

    Args:
        config: with scale and sizes of the training data.
    """

    kind: ClassVar[str] = "crysldm"
    paper: ClassVar[str] = (
        "CrysLDM (Khastagir et al., CrysLDM: Latent Diffusion Model for Crystal Material "
        "Generation, 2025)"
    )
    accepts = frozenset({"atomic_numbers", "num_atoms", "space_group"})
    sampling_settings = frozenset(
        {"latent_noise", "position_noise", "corrector", "anti_annealing", "refine_strength"}
    )

    @property
    def refine_strength(self) -> float:
        """See `Noises`."""
        return self.config.refine_strength

    # --- forward process ------------------------------------------------------------------------

    @torch.no_grad()
    def noise(self, batch: Batch, step: int, seeds: Sequence[int]) -> Batch:
        """See `Noises`: latents and positions after `step` steps, decoded.

        Atoms change as much as the cell does. After 0 steps it is what the autoencoder makes of the
        crystals.
        """
        like, mask = next(self.parameters()), batch.mask
        clean = batch.to(like.device, like.dtype)
        steps = torch.full((len(batch),), step, device=like.device)
        latents, frac = self.encoded(clean), clean.frac_coords
        if step:
            draw, moves, _ = self._split(next(self._noise(seeds, mask, 1).rest(frac)))
            latents = self.process.noised_latents(latents, steps, draw)
            noisy = self.process.noised_positions(frac, clean.atomic_numbers, steps, moves)
            frac = noisy.frac_coords
        made = self.decoded(latents, frac, mask)
        return made.to(batch.lattices.device, batch.lattices.dtype)

    def refine(
        self,
        batch: Batch,
        seeds: Sequence[int],
        strength: float | None = None,
        steps: int | None = None,
    ) -> Batch:
        """See `Noises.refine`; atoms stay as they are."""
        return self._refined(batch, None, seeds, strength, steps)

    def refine_orbits(
        self,
        batch: Batch,
        orbits: Sequence[DrawnOrbits],
        seeds: Sequence[int],
        strength: float | None = None,
    ) -> Batch:
        """See `RefinesOrbits`."""
        return self._refined(batch, orbits, seeds, strength)

    def _refined(
        self,
        batch: Batch,
        orbits: Sequence[DrawnOrbits] | None,
        seeds: Sequence[int],
        strength: float | None,
        steps: int | None = None,
    ) -> Batch:
        share = self.refine_strength if strength is None else strength
        if not 0 < share <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, not {share}")
        like = next(self.parameters())
        start = batch.to(like.device, like.dtype)
        first = max(1, round(share * self.num_steps))
        numbers = start.atomic_numbers
        return walked(self, *self._begun(numbers, numbers, seeds, start, first, steps, orbits))

    # --- sampling -------------------------------------------------------------------------------

    def sample(
        self,
        targets: Sequence[Target],
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Batch:
        """Sample crystals by Algorithm 2; see `Model.sample`."""
        return walked(self, *self.begin(targets, steps), on_step)

    def begin(
        self, targets: Sequence[Target], steps: int | None = None
    ) -> tuple[_State, list[WayBack]]:
        """See `Stepwise`. Atoms that nobody asked for are as many as training crystals have.

        With space groups, orbits are drawn for the atoms of each target.
        """
        seeds = [target.seed for target in targets]
        if any(target.space_group for target in targets):
            drawn = [draw_target(target) for target in targets]
            atoms = pad_atomic_numbers([one.atomic_numbers for one in drawn]).to(self.device)
            return self._begun(atoms, atoms, seeds, steps=steps, drawn=drawn)
        groups = [self._groups(target) for target in targets]
        told = [
            target.atomic_numbers or (0,) * len(group)
            for target, group in zip(targets, groups, strict=True)
        ]
        known, padded = (pad_atomic_numbers(rows).to(self.device) for rows in (told, groups))
        return self._begun(known, padded, seeds, steps=steps)

    def size_of(self, target: Target) -> int:
        """See `Model`; N ~ p(N) where it is left to the model."""
        return target.size or len(self._groups(target))

    def _groups(self, target: Target) -> tuple[int, ...]:
        """Return numbers from 1 on for the atoms of a crystal, equal for those of one element.

        With `stoichiometry` that is as frequent as in the training data; else all are 1.
        """
        if target.atomic_numbers is not None:
            return target.atomic_numbers
        chance = np.random.default_rng([_COUNT_STREAM, target.seed]).random()
        if not self.config.stoichiometry:
            counts = dict(enumerate(self.config.atom_counts or (1,), start=1))
            return (1,) * (target.num_atoms or int(_drawn(counts, chance)))
        parts = parsed(self.config.formulas)
        if target.num_atoms is not None:
            parts = of_size(parts, target.num_atoms)
        if not parts:  # untrained
            return (1,) * (target.num_atoms or 1)
        drawn = _drawn(parts, chance)
        return tuple(group for group, n in enumerate(drawn, start=1) for _ in range(n))

    @torch.no_grad()
    def _begun(
        self,
        told: Tensor,
        groups: Tensor,
        seeds: Sequence[int],
        start: Batch | None = None,
        first: int | None = None,
        steps: int | None = None,
        drawn: Sequence[DrawnOrbits] | None = None,
    ) -> tuple[_State, list[WayBack]]:
        """Begin at pure noise, or at `start` noised to the step `first`; on the orbits `drawn`."""
        plan = steps_back(self.num_steps, first, steps)
        mask = groups > 0
        weights = next(self.parameters())
        zeros = torch.zeros(*mask.shape, 3, dtype=weights.dtype, device=mask.device)
        draws = self._noise(seeds, mask, 1 + len(plan)).rest(zeros)
        latents, moves, _ = self._split(next(draws))
        group: GroupTensors | tuple[()] = ()
        if drawn is not None:
            group = stack_drawn(drawn, mask.shape[1], mask.device)
            latents = latents._replace(atoms=of_first_atoms(latents.atoms, group))
        if start is None:
            frac = uniform(moves) * mask[..., None]
            if drawn is not None:
                frac = place_orbits([one.orbits for one in drawn], frac)
        else:
            now = torch.full((len(mask),), plan[0], device=mask.device)
            latents = self.process.noised_latents(self.encoded(start), now, latents)
            noisy = self.process.noised_positions(start.frac_coords, told, now, moves)
            frac = noisy.frac_coords
            if group:
                way_there = group.project_displacements(shortest_path(start.frac_coords, frac))
                frac = wrap(group.project_frac_coords(start.frac_coords + way_there))
        if group:
            latents = self._allowed(latents, mask, group)
        way = []
        for (t, s), draw in zip(pairwise(plan), draws, strict=False):
            noise, moves, correction = self._split(draw)
            if group:
                noise = noise._replace(atoms=of_first_atoms(noise.atoms, group))
                moves, correction = (
                    group.project_displacements(remove_mean(each, mask))
                    for each in (moves, correction)
                )
            now, then = (step_tensor(step, mask.device) for step in (t, s))
            way.append(WayBack(now, then, noise, moves, correction))
        return _State(mask, told, groups, latents, frac, group), way

    def _allowed(self, latents: Latents, mask: Tensor, group: GroupTensors) -> Latents:
        return allowed_latents(latents, self.scale, self.form, mask.sum(1), group)

    def _noise(self, seeds: Sequence[int], mask: Tensor, draws: int) -> Noise:
        """Make the random numbers of crystals: each draw for latents, positions and corrector."""
        numbers = math.prod(self.form.shape)
        return Noise(seeds, mask.sum(1), numbers, draws, self.config.latent_channels + 6)

    def _split(self, draw: tuple[Tensor, Tensor]) -> tuple[Latents, Tensor, Tensor]:
        cell, atoms = draw
        of_latents, moves, correction = atoms.split([self.config.latent_channels, 3, 3], -1)
        return Latents(of_latents, cell.unflatten(-1, self.form.shape)), moves, correction

    @torch.no_grad()
    def step(self, state: _State, inputs: WayBack) -> _State:
        """See `Stepwise`. The corrector comes first, at the noise that latents have, too."""
        mask, told, groups, latents, frac, group = state
        process = self.process
        steps, _ = inputs.rows(len(mask))
        if self.config.corrector:
            _, displacement = self._predicted(state, steps)
            frac = process.corrected(frac, displacement, inputs, mask, self.config.corrector)
            state = state._replace(frac_coords=frac)
        velocities, displacement = self._predicted(state, steps)
        near = 1 - inputs.step / self.num_steps
        # A step leads at most to where the displacement ends.
        most = inputs.step / (inputs.step - inputs.earlier)
        faster = (1 + self.config.anti_annealing * near).minimum(most)
        displacement = faster.to(frac) * displacement
        latents = process.latents_before(latents, velocities, inputs, self.config.latent_noise)
        frac = process.positions_before(
            frac, displacement, inputs, mask, self.config.position_noise
        )
        if group:
            latents = self._allowed(latents, mask, group)
            frac = wrap(group.project_frac_coords(frac))
        return _State(mask, told, groups, latents, frac, group)

    def _predicted(self, state: _State, steps: Tensor) -> tuple[Latents, Tensor]:
        """Predict velocities of latents and displacements (B, N, 3) of positions."""
        mask, told, groups, latents, frac, group = state
        velocities, moves = self.denoised(latents, frac, steps, told, mask, groups)
        displacement = remove_mean(moves, mask) * self.process.sizes(steps, frac)
        if group:
            displacement = group.project_displacements(displacement)
        return velocities, displacement

    @torch.no_grad()
    def finish(self, state: _State) -> Batch:
        """See `Stepwise`; crystals of a space group come in its conventional cells."""
        groups = state.groups if self.config.stoichiometry else None
        made = self.decoded(state.latents, state.frac_coords, state.mask, state.told, groups)
        if state.space_groups:
            return Batch(*state.space_groups.conventional_cells(made.frac_coords, made.lattices))
        return made


def _drawn(counts: Mapping[_Drawn, int], chance: float) -> _Drawn:
    """Return the key at a share from 0 to 1 of all counts."""
    upper = np.cumsum(np.array(list(counts.values()), dtype=np.float64))
    return list(counts)[int(np.searchsorted(upper / upper[-1], chance, side="right"))]
