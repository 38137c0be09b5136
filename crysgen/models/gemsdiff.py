"""GemsDiff: diffusion of cell and positions for a given composition.

Klipfel et al., "Vector Field Oriented Diffusion Model for Crystal Material Generation", AAAI 2024:
Algorithms 1 and 2 with the corrections that CONTRIBUTING.md lists. What the paper's ablations vary
is configuration here, and so is what this implementation adds to the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from crysgen.diffusion.noise import Noise
from crysgen.diffusion.positions import ScoreProcess
from crysgen.diffusion.schedules import step_tensor, steps_back
from crysgen.diffusion.space_groups import GroupTensors, place_orbits, stack_drawn
from crysgen.diffusion.torus import remove_mean, shortest_path, wrap
from crysgen.models.base import OnStep, walked
from crysgen.models.gemsdiff_training import TrainableGemsDiff, selected
from crysgen.models.targets import Target
from crysgen.networks.base import Estimate
from crysgen.training.batch import Batch, pad_atomic_numbers
from crysgen.wyckoff.draws import DrawnOrbits, draw_target

_CAREFUL = (torch.inf, 1.8, 0.0)
"""Largest amplification of steps of cells after no, one and more draws that came to nothing: with
OMatG's 1.8 few cells run away, and without any none did."""


class _State(NamedTuple):
    """Crystals on the way from noise.

    Attributes:
        atomic_numbers: (B, N); 0 is padding.
        frac_coords: (B, N, 3).
        vectors: (B, D) cells in the cell space.
        cell_amplification: (B, 1) `cell_anti_annealing` of each crystal.
        clean: with self-conditioning, what was predicted last, else (): positions (B, N, 3), cells
            (B, 3, 3) in Å, and (B,) 1 where there is such a prediction.
        group: that the crystals obey all the way, or ().
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    vectors: Tensor
    cell_amplification: Tensor
    clean: tuple[Tensor, ...]
    group: GroupTensors | tuple[()] = ()


class _Step(NamedTuple):
    """Inputs of one step of sampling.

    Attributes:
        now: () from which step; see `step_tensor`.
        earlier: () to which.
        cell_noise: (B, D) normal numbers times the factor of the configuration.
        position_noise: (B, N, 3) the same, without a shift of all atoms.
        corrector_noise: as `position_noise`, or () without a corrector.
    """

    now: Tensor
    earlier: Tensor
    cell_noise: Tensor
    position_noise: Tensor
    corrector_noise: Any


class GemsDiff(TrainableGemsDiff):
    """The process over a network.

    Args:
        config: with the statistics of the cells of the training data.
    """

    kind: ClassVar[str] = "gemsdiff"
    paper: ClassVar[str] = (
        "GemsDiff (Klipfel et al., Vector Field Oriented Diffusion Model for Crystal Material "
        "Generation, AAAI 2024)"
    )
    accepts = frozenset({"atomic_numbers", "space_group", "sites"})
    requires = frozenset({"atomic_numbers"})
    sampling_settings = frozenset(
        {
            "cell_noise",
            "position_noise",
            "anti_annealing",
            "cell_anti_annealing",
            "corrector",
            "sampling_steps",
            "farthest_cell",
            "volume_scale",
            "refine_strength",
        }
    )

    @property
    def default_steps(self) -> int:
        """See `Model`."""
        return self.config.sampling_steps or self.num_steps

    @property
    def refine_strength(self) -> float:
        """See `Noises`."""
        return self.config.refine_strength

    # --- forward process -------------------------------------------------------------------

    def noise(self, batch: Batch, step: int, seeds: Sequence[int]) -> Batch:
        """Noise crystals by `step` steps of the forward process (Algorithm 1, lines 3 and 4).

        Args:
            batch: B crystals.
            step: 0 to T.
            seeds: B, one for each crystal.
        """
        draw, moves = Noise(seeds, batch.num_atoms, self.cells.dimensions, 1).draw(
            batch.frac_coords
        )
        steps = torch.full((len(batch),), step, device=batch.lattices.device)
        moved = self.of_positions.noised(batch.frac_coords, batch.atomic_numbers, steps, moves)
        lattices = batch.lattices
        if step and self.config.lattice_diffusion:
            vectors = self.cells.encode(lattices, batch.num_atoms)
            noisy = self.of_cells.noised(vectors, steps, draw)
            lattices = self.cells.decode(noisy, batch.num_atoms)
        return batch.with_geometry(moved.frac_coords, lattices)

    # --- sampling -------------------------------------------------------------------------------

    def sample(
        self,
        targets: Sequence[Target],
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Batch:
        """Sample crystals of the given atoms by Algorithm 2; see `Model.sample`."""
        return walked(self, *self.begin(targets, steps), on_step)

    def refine(
        self,
        batch: Batch,
        seeds: Sequence[int],
        strength: float | None = None,
        steps: int | None = None,
    ) -> Batch:
        """See `Noises.refine`."""
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
        first = max(1, round(share * self.num_steps))
        begun, way = self._begun(batch.atomic_numbers, seeds, batch, first, steps, orbits)
        # An unusual cell that was given is not a lost one.
        like = begun.vectors
        given = self.cells.encode(batch.lattices.to(like), batch.num_atoms.to(like.device))
        is_usual = ~self._has_run_away(begun._replace(vectors=given))
        state = self._walked(begun, way)
        for limit in _CAREFUL[1:]:
            lost = torch.nonzero(self._has_run_away(state) & is_usual).squeeze(1)
            if not len(lost):
                break
            slower = begun._replace(cell_amplification=begun.cell_amplification.clamp_max(limit))
            again = [selected(inputs, lost) for inputs in way]
            state = _replaced(state, self._walked(selected(slower, lost), again), lost)
        return self._without_lost(self._crystals(state), self._has_run_away(state) & is_usual)

    def _walked(self, state: _State, way: Sequence[_Step]) -> _State:
        """Go all steps of a way."""
        for inputs in way:
            state = self.step(state, inputs)
        return state

    def begin(
        self, targets: Sequence[Target], steps: int | None = None
    ) -> tuple[_State, list[_Step]]:
        """See `Stepwise`.

        With space groups, orbits are drawn for the atoms of each target.
        """
        steps = steps or self.default_steps
        seeds = [target.seed for target in targets]
        drawn = None
        if any(target.space_group or target.sites for target in targets):
            drawn = [draw_target(target) for target in targets]
            atoms = pad_atomic_numbers([one.atomic_numbers for one in drawn])
        else:
            atoms = pad_atomic_numbers([target.atomic_numbers or () for target in targets])
        state, way = self._begun(atoms.to(self.device), seeds, steps=steps, drawn=drawn)
        speed = state.cell_amplification
        limits = [_CAREFUL[min(target.failed, len(_CAREFUL) - 1)] for target in targets]
        speed = speed.minimum(torch.tensor(limits).to(speed)[:, None])
        return state._replace(cell_amplification=speed), way

    @torch.no_grad()
    def _begun(
        self,
        atomic_numbers: Tensor,
        seeds: Sequence[int],
        start: Batch | None = None,
        first: int | None = None,
        steps: int | None = None,
        drawn: Sequence[DrawnOrbits] | None = None,
    ) -> tuple[_State, list[_Step]]:
        """Begin at pure noise, or at `start` noised to the step `first`; on the orbits `drawn`."""
        plan = steps_back(self.num_steps, first, steps)
        mask = atomic_numbers > 0
        counts = mask.sum(1)
        looks = 2 if self.config.corrector else 1
        noise = Noise(seeds, counts, self.cells.dimensions, 1 + looks * (len(plan) - 1))
        weights = next(self.network.parameters())
        zeros = torch.zeros(*mask.shape, 3, dtype=weights.dtype, device=mask.device)
        draw, moves = noise.draw(zeros)
        if start is None:
            vectors, frac = self.of_cells.start(draw), self.of_positions.start(moves, mask)
        else:
            now = torch.full_like(counts, plan[0])
            known = self.cells.encode(start.lattices.to(zeros), counts)
            vectors = self.of_cells.noised(known, now, draw)
            placed = start.frac_coords.to(zeros)
            frac = self.of_positions.noised(placed, atomic_numbers, now, moves).frac_coords
        group: GroupTensors | tuple[()] = ()
        if drawn is not None:
            group = stack_drawn(drawn, mask.shape[1], mask.device)
            if start is None:
                frac = place_orbits([one.orbits for one in drawn], frac)
            else:
                moved = group.project_displacements(shortest_path(start.frac_coords, frac))
                frac = wrap(group.project_frac_coords(start.frac_coords + moved)).to(frac)
            vectors = self._allowed_cells(vectors, counts, group)
        clean: tuple[Tensor, ...] = ()
        if self.config.self_conditioning:
            cells = torch.eye(3, dtype=zeros.dtype, device=zeros.device).repeat(len(mask), 1, 1)
            clean = (frac, cells, torch.zeros_like(draw[:, 0]))
        way, numbers = [], noise.rest(zeros)
        for t, s in pairwise(plan):
            draws = [next(numbers) for _ in range(looks)]
            jitter = [self.config.position_noise * remove_mean(draw[1], mask) for draw in draws]
            if group:
                jitter = [group.project_displacements(each) for each in jitter]
            way.append(
                _Step(
                    step_tensor(t, mask.device),
                    step_tensor(s, mask.device),
                    self.config.cell_noise * draws[0][0],
                    jitter[0],
                    jitter[1] if self.config.corrector else (),
                )
            )
        speed = torch.full_like(vectors[:, :1], self.config.cell_anti_annealing)
        return _State(atomic_numbers, frac, vectors, speed, clean, group), way

    @torch.no_grad()
    def step(self, state: _State, inputs: _Step) -> _State:
        """See `Stepwise`: one step of Algorithm 2, after one of the corrector if there is one."""
        numbers, frac, vectors, speed, clean, group = state
        steps, earlier = (t.expand(len(numbers)) for t in (inputs.now, inputs.earlier))
        if isinstance(self.of_positions, ScoreProcess) and self.config.corrector:
            displacement, _ = self._predicted_within(state, steps)
            size = self.config.corrector
            frac = self.of_positions.corrected(
                frac, displacement, steps, size, inputs.corrector_noise
            )
            state = state._replace(frac_coords=frac)
        displacement, predicted = self._predicted_within(state, steps)
        near = 1 - steps / self.num_steps
        # Steps lead at most to where displacements end: beyond, errors would grow.
        most = 1 / self.of_positions.share(steps, earlier)
        faster = (1 + self.config.anti_annealing * near).minimum(most).to(frac)
        amplified = faster[:, None, None] * displacement
        moved = self.of_positions.before(frac, amplified, steps, earlier, inputs.position_noise)
        bent = predicted
        if self.config.lattice_diffusion:
            bent = self.of_cells.before(vectors, predicted, steps, earlier, inputs.cell_noise)
        if self.config.cell_anti_annealing:
            most = 1 / (1 - self.of_cells.schedule.posterior(steps, earlier).from_now)
            near, most = near.to(speed)[:, None], most.to(speed)[:, None]
            bent = vectors + (1 + speed * near).minimum(most) * (bent - vectors)
        if self.config.self_conditioning:
            cells = self.cells.decode(predicted, (numbers > 0).sum(1))
            clean = (wrap(frac + displacement), cells, torch.ones_like(vectors[:, 0]))
        if group:
            # Rounding errors must not add up, and noise of a cell is not within its group.
            moved = wrap(group.project_frac_coords(moved))
            bent = self._allowed_cells(bent, (numbers > 0).sum(1), group)
        return _State(numbers, moved, bent, speed, clean, group)

    def _predicted_within(self, state: _State, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Predict displacements (B, N, 3) and vectors (B, D) of cells, within the space groups."""
        numbers, group = state.atomic_numbers, state.group
        displacement, cell = self.predict(
            numbers, state.frac_coords, state.vectors, steps, self._estimate(state), group
        )
        vectors = self._clean_vectors(cell, numbers)
        if group:
            displacement = group.project_displacements(displacement)
            vectors = self._allowed_cells(vectors, (numbers > 0).sum(1), group)
        return displacement, vectors

    def _allowed_cells(self, vectors: Tensor, counts: Tensor, group: GroupTensors) -> Tensor:
        """Project the vectors (B, D) of cells onto what their space groups allow."""
        lattices = group.project_lattices(self.cells.decode(vectors.double(), counts))
        return self.cells.encode(lattices, counts).to(vectors)

    def _estimate(self, state: _State) -> Estimate | None:
        """Return the last prediction as seen from where atoms are now."""
        if not self.config.self_conditioning:
            return None
        positions, cells, known = state.clean
        return Estimate(shortest_path(state.frac_coords, positions), cells, known)

    @torch.no_grad()
    def finish(self, state: _State) -> Batch:
        """See `Stepwise`; crystals of a space group come in its conventional cells.

        Cells that have run away, as some do where steps are amplified, are not finite: whoever
        asked draws them again.
        """
        made = self._crystals(state)
        scaled = made.lattices * self.config.volume_scale ** (1 / 3)
        made = made.with_geometry(made.frac_coords, scaled)
        return self._without_lost(made, self._has_run_away(state))

    def _has_run_away(self, state: _State) -> Tensor:
        """Say which cells (B,) lie beyond `farthest_cell`."""
        far = state.vectors.abs()
        if state.group:
            # Cells of a group are not reduced: their shapes may be unusual, but not their volumes.
            far = far[:, -1:]
        limit = self.config.farthest_cell
        return ~(far.amax(1) <= (torch.inf if limit is None else limit))

    @staticmethod
    def _without_lost(made: Batch, lost: Tensor) -> Batch:
        """Make the cells that are lost (B,) not finite."""
        lattices = made.lattices.masked_fill(lost[:, None, None], torch.nan)
        return made.with_geometry(made.frac_coords, lattices)

    def _crystals(self, state: _State) -> Batch:
        mask = state.atomic_numbers > 0
        lattices = self.cells.decode(state.vectors.double(), mask.sum(1))
        if state.group:
            return Batch(*state.group.conventional_cells(state.frac_coords, lattices))
        return Batch(state.atomic_numbers, state.frac_coords * mask[..., None], lattices)


def _replaced(kept: _State, other: _State, rows: Tensor) -> _State:
    """Put crystals on their way (K) in the place of those at `rows` (K,)."""
    return kept._replace(
        frac_coords=kept.frac_coords.index_copy(0, rows, other.frac_coords),
        vectors=kept.vectors.index_copy(0, rows, other.vectors),
    )
