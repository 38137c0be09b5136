"""GemsDiff: diffusion of cell and positions for a given composition.

Klipfel et al., "Vector Field Oriented Diffusion Model for Crystal Material Generation", AAAI 2024:
Algorithms 1 and 2 with the corrections that CONTRIBUTING.md lists. What the paper's ablations vary
is configuration here, and so is what this implementation adds to the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from crysgen.config_values import at_least, positive
from crysgen.diffusion.cells import CellSpace, LogCells, RawCells
from crysgen.diffusion.lattice import (
    lattice_parameters,
    normalize_lengths,
    symmetric_exp,
    symmetric_to_vector,
)
from crysgen.diffusion.noise import Noise, spread_steps
from crysgen.diffusion.process import CrystalDiffusion, WayBack
from crysgen.diffusion.schedules import (
    LATTICE_BETAS,
    POSITION_BETAS,
    STEPS,
    Exploding,
    Preserving,
    exploding_powers,
    linear_betas,
    preserving_powers,
    strided_steps,
)
from crysgen.diffusion.torus import remove_mean, shortest_path
from crysgen.matrices import determinants
from crysgen.models.base import Model, ModelConfig, OnStep
from crysgen.models.fields import build_fields
from crysgen.models.targets import Target
from crysgen.networks import build_network
from crysgen.networks.base import check_settings, network_class
from crysgen.training.batch import Batch, pad_atomic_numbers

_MOST_STEPS = 100_000
_LARGEST_POWER = 100.0
_SMALLEST_SIGMA = 0.02
"""Of the lattice: below it errors are no longer divided by the noise."""


@dataclass(frozen=True)
class GemsDiffConfig(ModelConfig):
    """Everything that decides a GemsDiff model beside its weights. The defaults are the paper's.

    Attributes:
        network: name of the backbone.
        network_settings: its keyword arguments.
        head_settings: keyword arguments of the head (`crysgen.models.fields`).
        steps: T.
        lattice_betas: (β_1, β_T) of the lattice.
        position_betas: (β_1, β_T) of the positions.
        lattice_power: if given, the lattice's noise is (t/T)^power instead. Where it is larger than
            the positions' power the cell takes its form first, while positions are still noise,
            and what the network sees of positions is not bent by a wrong cell.
        position_power: if given, the positions' noise is position_sigma (t/T)^power instead.
        position_sigma: the largest noise of positions, with `position_power`.
        lattice_mean: of the training data in the cell space (set by training).
        lattice_std: of the same.
        standardize_lattice: noise as wide as the data; see `LogCells`.
        lattice_space: `log` (x^ρ), or `raw`: ablation (d) of Table 4.
        lattice_diffusion: False is the authors' later variant: the network never sees a cell, and
            predicts it from composition and positions.
        cell_decoder: `identity` (Eq. 11), `noisy` (Eq. 9c; ablation (a)), or `residual`: the
            network sees the noisy cell shrunk toward the mean of all cells as much as its noise
            asks, and ρ' is that cell, bent by exp(y^ρ - 1) in units of what is left to be known.
        lattice_loss: `parameters` (Eq. 15, toward ρ_0), `posterior` (Eq. 15 as printed), or
            `vector` (Eq. 14, divided by the noise).
        position_loss: `uniform` (Eq. 20), or `scaled`: errors in units of what is left to be known
            at each step, so that small noise counts as much as large noise.
        position_spread: in `scaled`, how far a position is from any guess without data.
        position_floor: in `scaled`, smaller errors than this do not count more.
        shortest_path: False is ablation (e): displacements across the border of the cell.
        cell_noise: factor of the noise that sampling adds to cells on the way back: 1 draws samples
            as Algorithm 2 does, less stays closer to the likeliest.
        position_noise: the same for positions.
        anti_annealing: how much sampling amplifies the displacements of positions toward the end:
            at the step t by 1 + a (1 - t/T) (FlowMM; OMatG's velocity annealing). Samples come
            closer to the mode that they are near.
        refine_strength: share of the steps by which refinement noises a crystal. On `val`, matches
            of the shipped model are lost from 0.4 on, and the RMSE is lowest at 0.1
            (benchmarks/csp/strength.py).
    """

    network: str = "gemsnet"
    network_settings: dict[str, Any] = field(default_factory=dict)
    head_settings: dict[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    lattice_betas: tuple[float, float] = LATTICE_BETAS
    position_betas: tuple[float, float] = POSITION_BETAS
    lattice_power: float | None = None
    position_power: float | None = None
    position_sigma: float = 0.5
    lattice_mean: tuple[float, ...] = ()
    lattice_std: tuple[float, ...] = ()
    standardize_lattice: bool = False
    lattice_space: Literal["log", "raw"] = "log"
    lattice_diffusion: bool = True
    cell_decoder: Literal["identity", "noisy", "residual"] = "identity"
    lattice_loss: Literal["parameters", "posterior", "vector"] = "parameters"
    position_loss: Literal["uniform", "scaled"] = "uniform"
    position_spread: float = 0.29
    position_floor: float = 0.01
    shortest_path: bool = True
    cell_noise: float = 1.0
    position_noise: float = 1.0
    anti_annealing: float = 0.0
    refine_strength: float = 0.1

    def __post_init__(self) -> None:
        check_settings(network_class(self.network), self.network_settings)
        at_least("steps", self.steps, 1, _MOST_STEPS)
        for name in ("lattice_power", "position_power"):
            if (power := getattr(self, name)) is not None:
                positive(name, power, _LARGEST_POWER)
        for name in ("lattice_betas", "position_betas"):
            first, last = getattr(self, name)
            if not 0 < first <= last < 1:
                raise ValueError(f"{name} must be two numbers that rise between 0 and 1")
        size = 9 if self.lattice_space == "raw" else 6
        for name in ("lattice_mean", "lattice_std"):
            if len(getattr(self, name)) not in (0, size):
                raise ValueError(f"{name} must be {size} numbers, or none")
        if not all(std > 0 for std in self.lattice_std):
            raise ValueError("lattice_std must be above 0")
        for name in ("position_sigma", "position_spread", "position_floor", "refine_strength"):
            positive(name, getattr(self, name), 1.0)
        for name in ("cell_noise", "position_noise", "anti_annealing"):
            at_least(name, getattr(self, name), 0, _LARGEST_POWER)
        if self.lattice_space == "raw" and (
            self.cell_decoder == "residual" or self.lattice_loss == "vector"
        ):
            raise ValueError("cells without a vector space are decoded and compared as cells")
        if not self.lattice_diffusion and self.cell_decoder == "noisy":
            raise ValueError("without lattice diffusion there is no noisy cell to decode from")


class _Prepared(NamedTuple):
    """A batch with noise, and what the network sees of it.

    Attributes:
        clean: atomic numbers (B, N), positions (B, N, 3), cells (B, 3, 3) in Å.
        vectors: (B, D) clean cells in the cell space.
        noisy: (B, D) noisy ones.
        frac_coords: (B, N, 3) noisy.
        steps: (B,) int.
        lattices: (B, 3, 3) in Å, that the network sees.
        neighbours: of the noisy crystals.
    """

    clean: tuple[Tensor, Tensor, Tensor]
    vectors: Tensor
    noisy: Tensor
    frac_coords: Tensor
    steps: Tensor
    lattices: Tensor
    neighbours: Any


class _State(NamedTuple):
    """Crystals on the way back.

    Attributes:
        atomic_numbers: (B, N); 0 is padding.
        frac_coords: (B, N, 3).
        vectors: (B, D) cells in the cell space.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    vectors: Tensor


class _Step(NamedTuple):
    """One step back, but for the crystals.

    Attributes:
        way: numbers of the process.
        amplified: () factor of the displacements.
        cell_noise: (B, D) normal numbers times the factor of the configuration.
        position_noise: (B, N, 3) the same, without a shift of all atoms.
    """

    way: WayBack
    amplified: Tensor
    cell_noise: Tensor
    position_noise: Tensor


class GemsDiff(Model):
    """The process over a network.

    Args:
        config: with the statistics of the cells of the training data.
    """

    kind: ClassVar[str] = "gemsdiff"
    paper: ClassVar[str] = (
        "GemsDiff (Klipfel et al., Vector Field Oriented Diffusion Model for Crystal Material "
        "Generation, AAAI 2024)"
    )
    Config = GemsDiffConfig
    accepts = frozenset({"atomic_numbers"})
    requires = frozenset({"atomic_numbers"})
    sampling_settings = frozenset(
        {"cell_noise", "position_noise", "anti_annealing", "refine_strength"}
    )

    config: GemsDiffConfig

    def __init__(self, config: GemsDiffConfig) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.network, config.network_settings)
        self.fields = build_fields(self.network, config.head_settings)
        self.cells = cell_space(config)
        self.process = CrystalDiffusion(self.cells, *_schedules(config))

    @property
    def num_steps(self) -> int:
        """T."""
        return self.config.steps

    @property
    def refine_strength(self) -> float:
        """See `Noises`."""
        return self.config.refine_strength

    @classmethod
    def fitted(cls, config: GemsDiffConfig, train: Batch) -> GemsDiffConfig:
        """Return the configuration with mean and standard deviation of the cells."""
        mean, std = cell_statistics(config, train)
        return replace(config, lattice_mean=tuple(mean), lattice_std=tuple(std))

    # --- forward process -------------------------------------------------------------------

    def noise(self, batch: Batch, step: int, seeds: Sequence[int]) -> Batch:
        """Noise crystals by `step` steps of the forward process (Algorithm 1, lines 3 and 4).

        Args:
            batch: B crystals.
            step: 0 to T.
            seeds: B, one for each crystal.
        """
        noise = Noise(seeds, batch.num_atoms, self.cells.dimensions, 1).draw(batch.frac_coords)
        steps = torch.full((len(batch),), step, device=batch.lattices.device)
        vectors = self.cells.encode(batch.lattices, batch.num_atoms)
        noisy, frac = self.process.noised(vectors, batch.frac_coords, batch.mask, steps, noise)
        lattices = batch.lattices
        if step and self.config.lattice_diffusion:
            lattices = self.cells.decode(noisy, batch.num_atoms)
        return batch.with_geometry(frac, lattices)

    # --- one look of the network ----------------------------------------------------------------

    def predict(
        self, atomic_numbers: Tensor, frac_coords: Tensor, vectors: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the clean crystal (Algorithm 1, line 5).

        Args:
            atomic_numbers: (B, N).
            frac_coords: (B, N, 3) noisy.
            vectors: (B, D) noisy cells in the cell space.
            steps: (B,) int.

        Returns:
            The displacement ε_θ (B, N, 3) that leads to x_0, and the cell: x_0^ρ (B, 6) with the
            decoder `residual`, ρ_0 (B, 3, 3) divided by N^(1/3) with the others.
        """
        mask = atomic_numbers > 0
        counts = mask.sum(1)
        with _full_precision(frac_coords):
            lattices = self._seen_cells(vectors, steps, counts)
            neighbours = self.network.search(frac_coords, lattices, mask)
        return self._predicted(atomic_numbers, frac_coords, steps, lattices, neighbours)

    def _predicted(
        self,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        steps: Tensor,
        lattices: Tensor,
        neighbours: Any,
    ) -> tuple[Tensor, Tensor]:
        mask = atomic_numbers > 0
        share = (steps / self.num_steps).to(frac_coords)
        features = self.network(atomic_numbers, lattices, share, neighbours)
        displacement, strain = self.fields(features, lattices, mask)
        with _full_precision(frac_coords):
            return self._decoded(displacement, strain, lattices, steps, mask, frac_coords)

    def _decoded(
        self,
        displacement: Tensor,
        strain: Tensor,
        lattices: Tensor,
        steps: Tensor,
        mask: Tensor,
        frac_coords: Tensor,
    ) -> tuple[Tensor, Tensor]:
        counts = mask.sum(1)
        displacement = remove_mean(displacement.to(frac_coords), mask)
        strain = strain.to(frac_coords)
        one = torch.eye(3, dtype=strain.dtype, device=strain.device)
        if self.config.cell_decoder == "identity":
            return displacement, one + strain
        if self.config.cell_decoder == "noisy":
            return displacement, normalize_lengths(lattices, counts) @ (one + strain)
        if not self.config.lattice_diffusion:
            return displacement, symmetric_to_vector(strain)
        left = self.process.unknown_of_cells(steps, strain)
        bent = symmetric_exp(self.cells.width * left.mean(-1)[:, None, None] * strain)
        return displacement, self.cells.encode(lattices @ bent, counts)

    def _seen_cells(self, vectors: Tensor, steps: Tensor, counts: Tensor) -> Tensor:
        """Make the cells (B, 3, 3) in Å that the network sees: a fixed cube without diffusion."""
        if not self.config.lattice_diffusion:
            mean = self.cells.start_mean().to(vectors)
            lattices = self.cells.decode(mean.expand(len(counts), -1), counts)
            size = determinants(lattices).abs().pow(1 / 3)
            return size[:, None, None] * torch.eye(3, dtype=size.dtype, device=size.device)
        if self.config.cell_decoder == "residual":
            vectors = self.process.expected_cells(vectors, steps)
        return self.cells.decode(vectors, counts)

    # --- training -----------------------------------------------------------------------------

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, stage: str = "model"
    ) -> dict[str, Tensor]:
        """Compute `loss` by Algorithm 1, and its parts `position` and `lattice`; see `Model`."""
        return self.prepared_loss(self.prepare(batch, generator, stage), stage)

    @torch.no_grad()
    def prepare(
        self, batch: Batch, generator: torch.Generator | None = None, stage: str = "model"
    ) -> _Prepared:
        """See `Prepares`. Steps are spread evenly over the batch, each still uniform on 1 to T."""
        device = batch.lattices.device
        with _full_precision(batch.lattices):
            steps = spread_steps(len(batch), self.num_steps, generator, device)
            vectors = self.cells.encode(batch.lattices, batch.num_atoms)
            cell_noise = torch.randn(vectors.shape, generator=generator, device=device).to(vectors)
            shape = batch.frac_coords.shape
            moves = torch.randn(shape, generator=generator, device=device).to(vectors)
            noisy, frac = self.process.noised(
                vectors, batch.frac_coords, batch.mask, steps, (cell_noise, moves)
            )
            lattices = self._seen_cells(noisy, steps, batch.num_atoms)
            neighbours = self.network.search(frac, lattices, batch.mask)
        clean = (batch.atomic_numbers, batch.frac_coords, batch.lattices)
        return _Prepared(clean, vectors, noisy, frac, steps, lattices, neighbours)

    def prepared_loss(self, prepared: _Prepared, stage: str = "model") -> dict[str, Tensor]:
        """See `Prepares`."""
        clean, vectors, noisy, frac, steps, lattices, neighbours = prepared
        batch = Batch(*clean)
        displacement, cell = self._predicted(
            batch.atomic_numbers, frac, steps, lattices, neighbours
        )
        with _full_precision(batch.lattices):
            position = self._position_loss(batch, frac, displacement, steps)
            lattice = self._lattice_loss(batch, vectors, noisy, cell, steps)
        return {"loss": position + lattice, "position": position, "lattice": lattice}

    def _position_loss(
        self, batch: Batch, frac: Tensor, displacement: Tensor, steps: Tensor
    ) -> Tensor:
        """Compute Eq. 20, averaged over atoms. A shift of all atoms counts as no error."""
        if self.config.shortest_path:
            target = shortest_path(frac, batch.frac_coords)
        else:
            target = batch.frac_coords - frac
        errors = remove_mean(target - displacement, batch.mask)
        if self.config.position_loss == "scaled":
            sizes = (self.config.position_spread, self.config.position_floor)
            errors = errors / self.process.unknown_of_positions(steps, *sizes).to(errors)
        return (errors.square().sum(-1) * batch.mask).sum() / batch.mask.sum()

    def _lattice_loss(
        self, batch: Batch, vectors: Tensor, noisy: Tensor, cell: Tensor, steps: Tensor
    ) -> Tensor:
        if self.config.lattice_loss == "vector":
            if self.config.cell_decoder != "residual":
                cell = self.cells.encode(cell, torch.ones_like(batch.num_atoms))
            errors = (cell - vectors).square().mean(-1)
            if self.config.lattice_diffusion:
                sigma = self.process.lattice.sigma(steps).to(errors)
                errors = errors / sigma.clamp_min(_SMALLEST_SIGMA).square()
            return errors.mean()
        ones = torch.ones_like(batch.num_atoms)
        if self.config.cell_decoder == "residual":
            cell = self.cells.decode(cell, ones)
        target = vectors
        if self.config.lattice_loss == "posterior":
            target = self.process.posterior_cells(vectors, noisy, steps)
        goal = lattice_parameters(self.cells.decode(target, ones))
        return (lattice_parameters(cell) - goal).norm(dim=-1).mean()

    # --- sampling -------------------------------------------------------------------------------

    def sample(
        self,
        targets: Sequence[Target],
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Batch:
        """Sample crystals of the given atoms by Algorithm 2; see `Model.sample`."""
        return self._walked(*self.begin(targets, steps), on_step)

    def refine(self, batch: Batch, seeds: Sequence[int], strength: float | None = None) -> Batch:
        """See `Noises.refine`."""
        share = self.refine_strength if strength is None else strength
        if not 0 < share <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, not {share}")
        first = max(1, round(share * self.num_steps))
        return self._walked(*self._begun(batch.atomic_numbers, seeds, batch, first))

    def _walked(self, state: _State, way: Sequence[_Step], on_step: OnStep | None = None) -> Batch:
        """Take all steps of a way back."""
        for done, inputs in enumerate(way):
            state = self.step(state, inputs)
            if on_step is not None:
                on_step(done + 1, len(way))
        return self.finish(state)

    def begin(
        self, targets: Sequence[Target], steps: int | None = None
    ) -> tuple[_State, list[_Step]]:
        """See `Stepwise`."""
        atoms = pad_atomic_numbers([target.atomic_numbers or () for target in targets])
        return self._begun(atoms.to(self.device), [target.seed for target in targets], steps=steps)

    @torch.no_grad()
    def _begun(
        self,
        atomic_numbers: Tensor,
        seeds: Sequence[int],
        start: Batch | None = None,
        first: int | None = None,
        steps: int | None = None,
    ) -> tuple[_State, list[_Step]]:
        """Begin at pure noise, or at `start` noised to the step `first`."""
        first = self.num_steps if first is None else first
        wanted = self.num_steps if steps is None else steps
        plan = strided_steps(first, max(1, min(first, round(wanted * first / self.num_steps))))
        mask = atomic_numbers > 0
        counts = mask.sum(1)
        noise = Noise(seeds, counts, self.cells.dimensions, len(plan))
        weights = next(self.network.parameters())
        zeros = torch.zeros(*mask.shape, 3, dtype=weights.dtype, device=mask.device)
        draws = noise.draw(zeros)
        if start is None:
            vectors, frac = self.process.start(draws, mask)
        else:
            now = torch.full((len(mask),), first, device=mask.device)
            known = self.cells.encode(start.lattices.to(zeros), counts)
            placed = start.frac_coords.to(zeros)
            vectors, frac = self.process.noised(known, placed, mask, now, draws)
        way = [
            _Step(
                self.process.way_back(t, s),
                torch.full((), 1 + self.config.anti_annealing * (1 - t / self.num_steps)).to(zeros),
                self.config.cell_noise * draw,
                self.config.position_noise * remove_mean(moves, mask),
            )
            for (t, s), (draw, moves) in zip(pairwise(plan), noise.rest(zeros), strict=True)
        ]
        return _State(atomic_numbers, frac, vectors), way

    @torch.no_grad()
    def step(self, state: _State, inputs: _Step) -> _State:
        """See `Stepwise`."""
        atomic_numbers, frac, vectors = state
        steps = inputs.way.step.expand(len(atomic_numbers))
        displacement, clean = self.predict(atomic_numbers, frac, vectors, steps)
        if self.config.cell_decoder != "residual":
            clean = self.cells.encode(clean, torch.ones_like(steps))
        frac = self.process.positions_before(
            frac, inputs.amplified * displacement, inputs.way, inputs.position_noise
        )
        if self.config.lattice_diffusion:
            vectors = self.process.cells_before(vectors, clean, inputs.way, inputs.cell_noise)
        else:
            vectors = clean
        return _State(atomic_numbers, frac, vectors)

    @torch.no_grad()
    def finish(self, state: _State) -> Batch:
        """See `Stepwise`."""
        mask = state.atomic_numbers > 0
        lattices = self.cells.decode(state.vectors.double(), mask.sum(1))
        return Batch(state.atomic_numbers, state.frac_coords * mask[..., None], lattices)


def _full_precision(like: Tensor) -> torch.autocast:
    """Switch off 16-bit autocast, in which only the network may compute."""
    return torch.autocast(like.device.type, enabled=False)


def _schedules(config: GemsDiffConfig) -> tuple[Preserving, Exploding]:
    """Make the schedules of lattice and positions."""
    if config.lattice_power is None:
        lattice = linear_betas(config.steps, *config.lattice_betas)
    else:
        lattice = preserving_powers(config.steps, config.lattice_power)
    if config.position_power is None:
        positions = linear_betas(config.steps, *config.position_betas)
    else:
        positions = exploding_powers(config.steps, config.position_power, config.position_sigma)
    return Preserving(lattice), Exploding(positions)


def cell_space(config: GemsDiffConfig) -> CellSpace:
    """Make the space in which cells are noised."""
    size = 9 if config.lattice_space == "raw" else 6
    mean = config.lattice_mean or (0.0,) * size
    std = config.lattice_std or (1.0,) * size
    if config.lattice_space == "raw":
        return RawCells(mean, std)
    return LogCells(mean, std, config.standardize_lattice)


def cell_statistics(config: GemsDiffConfig, batch: Batch) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of crystals in the cell space, before standardising."""
    plain = GemsDiffConfig(lattice_space=config.lattice_space)
    vectors = cell_space(plain).encode(batch.lattices.double(), batch.num_atoms)
    return vectors.mean(0).tolist(), vectors.std(0).clamp_min(1e-3).tolist()
