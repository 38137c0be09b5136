"""GemsDiff: diffusion of cell and positions for a given composition.

Klipfel et al., "Vector Field Oriented Diffusion Model for Crystal Material Generation", AAAI 2024:
Algorithms 1 and 2 with the corrections that CONTRIBUTING.md lists. What the paper's ablations vary
is configuration here, and so is what this implementation adds to the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crysgen.batch import Batch
from crysgen.lattice import (
    lattice_parameters,
    normalize_lengths,
    symmetric_exp,
    symmetric_to_vector,
)
from crysgen.models.cells import CellSpace, LogCells, RawCells
from crysgen.models.noise import Noise
from crysgen.networks import build_network
from crysgen.schedules import (
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
from crysgen.torus import remove_mean, shortest_path, wrap

_SMALLEST_SIGMA = 0.02
"""Of the lattice: below it errors are no longer divided by the noise."""


@dataclass(frozen=True)
class GemsDiffConfig:
    """Everything that decides a GemsDiff model beside its weights. The defaults are the paper's.

    Attributes:
        network: name of the backbone.
        network_settings: its keyword arguments.
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
        cell_noise: of sampling; see `GemsDiff.sample`.
        position_noise: of sampling.
    """

    network: str = "gemsnet"
    network_settings: dict[str, Any] = field(default_factory=dict)
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

    def __post_init__(self) -> None:
        for name in ("lattice_betas", "position_betas", "lattice_mean", "lattice_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        if self.lattice_space == "raw" and (
            self.cell_decoder == "residual" or self.lattice_loss == "vector"
        ):
            raise ValueError("cells without a vector space are decoded and compared as cells")
        if not self.lattice_diffusion and self.cell_decoder == "noisy":
            raise ValueError("without lattice diffusion there is no noisy cell to decode from")

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GemsDiffConfig:
        """From what `to_json` gave.

        Raises:
            ValueError: naming settings that are none.
        """
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        return cls(**values)


class GemsDiff(nn.Module):
    """The process over a network.

    Args:
        config: with the statistics of the cells of the training data.
    """

    def __init__(self, config: GemsDiffConfig) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.network, config.network_settings)
        self.lattice_schedule, self.position_schedule = _schedules(config)
        self.cells = cell_space(config)
        self.run_network: Callable[..., Any] = self.network

    @property
    def num_steps(self) -> int:
        """T."""
        return self.config.steps

    def compile(self, **options: Any) -> None:
        """Let `torch.compile` make the network fast; the neighbour search stays as it is."""
        self.run_network = torch.compile(self.network, **options)

    # --- forward process -------------------------------------------------------------------

    def noise(self, batch: Batch, step: int, seeds: Sequence[int]) -> Batch:
        """Crystals after `step` steps of the forward process (Algorithm 1, lines 3 and 4).

        Args:
            batch: B crystals.
            step: 0 to T.
            seeds: B, one for each crystal.
        """
        noise = Noise(seeds, batch.num_atoms, self.cells.dimensions, 1)
        steps = torch.full((len(batch),), step, device=batch.lattices.device)
        cell_noise, position_noise = noise.draw(batch.frac_coords)
        vectors = self.cells.encode(batch.lattices, batch.num_atoms)
        noisy, frac = self._noised(batch, vectors, steps, cell_noise, position_noise)
        lattices = batch.lattices
        if step and self.config.lattice_diffusion:
            lattices = self.cells.decode(noisy, batch.num_atoms)
        return batch.with_geometry(frac, lattices)

    def _noised(
        self,
        batch: Batch,
        vectors: Tensor,
        steps: Tensor,
        cell_noise: Tensor,
        position_noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        signal = self.lattice_schedule.signal(steps).to(vectors)[:, None]
        sigma = self.lattice_schedule.sigma(steps).to(vectors)[:, None]
        spread = self.position_schedule.sigma(steps).to(vectors)[:, None, None]
        shift = spread * remove_mean(position_noise, batch.mask)
        return signal * vectors + sigma * cell_noise, wrap(batch.frac_coords + shift)

    # --- one look of the network ----------------------------------------------------------------

    def predict(
        self, atomic_numbers: Tensor, frac_coords: Tensor, vectors: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the network takes the crystal to be (Algorithm 1, line 5).

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
        share = (steps / self.num_steps).to(frac_coords)
        with _full_precision(frac_coords):
            lattices = self._seen_cells(vectors, steps, counts)
            neighbours = self.network.search(frac_coords, lattices, mask)
        displacement, strain = self.run_network(atomic_numbers, lattices, share, neighbours)
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
        signal, sigma = self._lattice_noise(steps, strain)
        spread = self.cells.start_variance().to(strain)
        left = (sigma.square() * spread / (signal.square() * spread + sigma.square())).sqrt()
        bent = symmetric_exp(self.cells.width * left.mean(-1)[:, None, None] * strain)
        return displacement, self.cells.encode(lattices @ bent, counts)

    def _lattice_noise(self, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and σ of the lattice, (B, 1)."""
        schedule = self.lattice_schedule
        return schedule.signal(steps).to(like)[:, None], schedule.sigma(steps).to(like)[:, None]

    def _seen_cells(self, vectors: Tensor, steps: Tensor, counts: Tensor) -> Tensor:
        """Cells (B, 3, 3) in Å that the network sees: one and the same cube without diffusion."""
        mean = self.cells.start_mean().to(vectors)
        if not self.config.lattice_diffusion:
            lattices = self.cells.decode(mean.expand(len(counts), -1), counts)
            size = torch.linalg.det(lattices).abs().pow(1 / 3)
            return size[:, None, None] * torch.eye(3, dtype=size.dtype, device=size.device)
        if self.config.cell_decoder == "residual":
            # The mean of x_0 given x_t, were cells normally distributed.
            signal, sigma = self._lattice_noise(steps, vectors)
            spread = self.cells.start_variance().to(vectors)
            weight = signal * spread / (signal.square() * spread + sigma.square())
            vectors = mean + weight * (vectors - signal * mean)
        return self.cells.decode(vectors, counts)

    def _position_scale(self, steps: Tensor) -> Tensor:
        """(B, 1, 1): what is left to be known of a position, from its noise and its spread."""
        variance = self.position_schedule.sigma(steps).square()
        spread = self.config.position_spread**2
        left = variance * spread / (variance + spread) + self.config.position_floor**2
        return left.sqrt()[:, None, None]

    # --- training -----------------------------------------------------------------------------

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Algorithm 1 on a batch: `loss`, and its parts `position` and `lattice`.

        Steps are spread evenly over the batch, each crystal's still uniform on 1 to T.

        Args:
            batch: B crystals.
            generator: of steps and noise, on the batch's device.
        """
        with _full_precision(batch.lattices):
            vectors, noisy, frac, steps = self._training_noise(batch, generator)
        displacement, cell = self.predict(batch.atomic_numbers, frac, noisy, steps)
        with _full_precision(batch.lattices):
            position = self._position_loss(batch, frac, displacement, steps)
            lattice = self._lattice_loss(batch, vectors, noisy, cell, steps)
        return {"loss": position + lattice, "position": position, "lattice": lattice}

    def _training_noise(
        self, batch: Batch, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean and noisy cells (B, D), noisy positions (B, N, 3), and steps (B,)."""
        device, size = batch.lattices.device, len(batch)
        places = torch.rand(1, generator=generator, device=device)
        places = (places + torch.arange(size, device=device) / size) % 1
        places = places[torch.randperm(size, generator=generator, device=device)]
        steps = (places * self.num_steps).long().clamp_max(self.num_steps - 1) + 1
        vectors = self.cells.encode(batch.lattices, batch.num_atoms)
        cell_noise = torch.randn(vectors.shape, generator=generator, device=device).to(vectors)
        shape = batch.frac_coords.shape
        moves = torch.randn(shape, generator=generator, device=device).to(vectors)
        noisy, frac = self._noised(batch, vectors, steps, cell_noise, moves)
        return vectors, noisy, frac, steps

    def _position_loss(
        self, batch: Batch, frac: Tensor, displacement: Tensor, steps: Tensor
    ) -> Tensor:
        """Eq. 20, its mean over atoms. A shift of all atoms is nobody's error."""
        if self.config.shortest_path:
            target = shortest_path(frac, batch.frac_coords)
        else:
            target = batch.frac_coords - frac
        errors = remove_mean(target - displacement, batch.mask)
        if self.config.position_loss == "scaled":
            errors = errors / self._position_scale(steps).to(errors)
        return (errors.square().sum(-1) * batch.mask).sum() / batch.mask.sum()

    def _lattice_loss(
        self, batch: Batch, vectors: Tensor, noisy: Tensor, cell: Tensor, steps: Tensor
    ) -> Tensor:
        if self.config.lattice_loss == "vector":
            if self.config.cell_decoder != "residual":
                cell = self.cells.encode(cell, torch.ones_like(batch.num_atoms))
            errors = (cell - vectors).square().mean(-1)
            if self.config.lattice_diffusion:
                sigma = self.lattice_schedule.sigma(steps).to(errors)
                errors = errors / sigma.clamp_min(_SMALLEST_SIGMA).square()
            return errors.mean()
        ones = torch.ones_like(batch.num_atoms)
        if self.config.cell_decoder == "residual":
            cell = self.cells.decode(cell, ones)
        target = vectors
        if self.config.lattice_loss == "posterior":
            start, now = self._posterior_weights(steps, vectors)
            target = start * vectors + now * noisy
        goal = lattice_parameters(self.cells.decode(target, ones))
        return (lattice_parameters(cell) - goal).norm(dim=-1).mean()

    def _posterior_weights(self, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        table = [self.lattice_schedule.posterior(t, t - 1) for t in range(1, self.num_steps + 1)]
        start = torch.stack([p.from_start for p in table]).to(like)
        now = torch.stack([p.from_now for p in table]).to(like)
        return start[steps - 1, None], now[steps - 1, None]

    # --- sampling -------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        atomic_numbers: Tensor,
        seeds: Sequence[int],
        steps: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
        start: Batch | None = None,
        start_step: int | None = None,
        cell_noise: float | None = None,
        position_noise: float | None = None,
    ) -> Batch:
        """Algorithm 2: crystals of the given compositions.

        Each crystal's noise follows from its own seed, whatever the batch it is in.

        Args:
            atomic_numbers: (B, N); 0 is padding.
            seeds: B.
            steps: how many of the T steps are taken; all by default.
            on_step: told how many steps are done, and of how many.
            start: crystals to begin from instead of pure noise: noised to `start_step`, then
                denoised.
            start_step: 1 to T.
            cell_noise: factor of the noise added to cells on the way back: 1 draws samples as
                Algorithm 2 does, less stays closer to the likeliest; the configuration's if None.
            position_noise: the same for positions.

        Raises:
            ValueError: if `start_step` or `steps` don't fit.
        """
        first = self.num_steps if start is None else int(start_step or 0)
        if not 1 <= first <= self.num_steps:
            raise ValueError(f"start_step must be 1 to {self.num_steps}")
        wanted = self.num_steps if steps is None else steps
        plan = strided_steps(first, max(1, min(first, round(wanted * first / self.num_steps))))
        mask = atomic_numbers > 0
        counts = mask.sum(1)
        device = atomic_numbers.device
        weights = next(self.network.parameters())
        noise = Noise(seeds, counts, self.cells.dimensions, len(plan))
        zeros = torch.zeros(*mask.shape, 3, dtype=weights.dtype, device=device)
        of_cells = self.config.cell_noise if cell_noise is None else cell_noise
        of_positions = self.config.position_noise if position_noise is None else position_noise
        draw, moves = noise.draw(zeros)
        now = torch.full((len(mask),), first, device=device)
        if start is None:
            vectors, frac = self._pure_noise(draw, moves, mask)
        else:
            known = self.cells.encode(start.lattices.to(zeros), counts)
            placed = start.with_geometry(start.frac_coords.to(zeros), start.lattices)
            vectors, frac = self._noised(placed, known, now, draw, moves)
        for done, (t, s) in enumerate(pairwise(plan)):
            now = torch.full_like(now, t)
            displacement, cell = self.predict(atomic_numbers, frac, vectors, now)
            if self.config.cell_decoder == "residual":
                clean = cell
            else:
                clean = self.cells.encode(cell, torch.ones_like(counts))
            draw, moves = noise.draw(zeros)
            way = self.position_schedule.posterior(t, s)
            jitter = of_positions * float(way.variance.sqrt()) * remove_mean(moves, mask)
            frac = wrap(frac + float(way.from_start) * displacement + jitter)
            if self.config.lattice_diffusion:
                way = self.lattice_schedule.posterior(t, s)
                vectors = float(way.from_start) * clean + float(way.from_now) * vectors
                vectors = vectors + of_cells * float(way.variance.sqrt()) * draw
            else:
                vectors = clean
            if on_step is not None:
                on_step(done + 1, len(plan) - 1)
        return Batch(
            atomic_numbers, frac * mask[..., None], self.cells.decode(vectors.double(), counts)
        )

    def _pure_noise(self, cell_noise: Tensor, moves: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Where training ends: not quite N(0, 1) and uniform, since some signal is left at T.

        What is left of the cells is replaced by a normal distribution of their mean and variance,
        and positions by uniform ones plus the noise of step T, which is uniform.
        """
        last = torch.tensor(self.num_steps)
        signal, sigma = self.lattice_schedule.signal(last), self.lattice_schedule.sigma(last)
        spread = (sigma**2 + signal**2 * self.cells.start_variance()).sqrt()
        vectors = (signal * self.cells.start_mean()).to(cell_noise) + spread.to(
            cell_noise
        ) * cell_noise
        # The normal distribution function makes uniform numbers of normal ones.
        uniform = (1 + torch.erf(moves / 2**0.5)) / 2
        return vectors, wrap(uniform) * mask[..., None]


def _full_precision(like: Tensor) -> torch.autocast:
    """Outside the network nothing is rounded to 16 bits, whatever the precision around it."""
    return torch.autocast(like.device.type, enabled=False)


def _schedules(config: GemsDiffConfig) -> tuple[Preserving, Exploding]:
    """Of lattice and positions."""
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
    """The space in which cells are noised."""
    size = 9 if config.lattice_space == "raw" else 6
    mean = config.lattice_mean or (0.0,) * size
    std = config.lattice_std or (1.0,) * size
    if config.lattice_space == "raw":
        return RawCells(mean, std)
    return LogCells(mean, std, config.standardize_lattice)


def cell_statistics(config: GemsDiffConfig, batch: Batch) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of crystals in the cell space, before standardising."""
    plain = GemsDiffConfig(lattice_space=config.lattice_space)
    vectors = cell_space(plain).encode(batch.lattices.double(), batch.num_atoms)
    return vectors.mean(0).tolist(), vectors.std(0).clamp_min(1e-3).tolist()
