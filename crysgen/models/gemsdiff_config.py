"""The configuration of GemsDiff, and the processes that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crysgen.config_values import MOST_STEPS, at_least, positive
from crysgen.diffusion.cell_process import CellProcess
from crysgen.diffusion.cells import CellSpace, LogCells, RawCells
from crysgen.diffusion.positions import FlowProcess, PathProcess, PositionProcess, ScoreProcess
from crysgen.diffusion.schedules import (
    LATTICE_BETAS,
    POSITION_BETAS,
    STEPS,
    Exploding,
    Preserving,
    Straight,
    exploding_geometric,
    exploding_powers,
    linear_betas,
    preserving_powers,
)
from crysgen.models.base import ModelConfig
from crysgen.networks.base import check_settings, network_class
from crysgen.training.batch import Batch

_LARGEST_POWER = 100.0


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
        lattice_process: `diffusion`, or `flow`: a straight line from normal noise to the cell, and
            no noise on the way back.
        position_process: `path` (GemsDiff), `flow` from uniform positions (FlowMM, OMatG), or
            `score` of the wrapped normal distribution (DiffCSP); see `crysgen.diffusion.positions`.
        lattice_power: if given, the lattice's noise is (t/T)^power instead. Where it is larger than
            the positions' power the cell takes its form first, while positions are still noise,
            and what the network sees of positions is not bent by a wrong cell.
        position_power: if given, the positions' noise is position_sigma (t/T)^power instead; of a
            flow, the share of the way is (t/T)^power.
        position_sigma: the largest noise of positions, with `position_power`.
        position_sigma_min: if given, the positions' noise rises from it to position_sigma by the
            same factor in every step instead (DiffCSP: 0.005 to 0.5).
        coupling: whether noise is paired with atoms of the same element by the smallest total
            displacement (OMatG; `crysgen.diffusion.coupling`).
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
        position_output: the network gives the `displacement`, or it is `scaled`, by how large
            displacements are at each step: the velocity of a flow, DiffCSP's scaled score.
        self_conditioning: whether the network sees the clean crystal that it predicted one step
            before; in training, of half the crystals.
        dropout: share of each layer's channels that are dropped in training, crystal by crystal.
        shortest_path: False is ablation (e): displacements across the border of the cell.
        cell_noise: factor of the noise that sampling adds to cells on the way back: 1 draws samples
            as Algorithm 2 does, less stays closer to the likeliest. A flow adds none.
        position_noise: the same for positions.
        anti_annealing: how much sampling amplifies the displacements of positions toward the end:
            at the step t by 1 + a (1 - t/T) (FlowMM; OMatG's velocity annealing). Samples come
            closer to the mode that they are near. OMatG's is 10.18 for its flow on MP-20.
        cell_anti_annealing: the same for the velocity of cells, where they follow a flow (OMatG:
            1.82). With much, some cells run away; they are drawn again with less.
        corrector: step size of Langevin dynamics before each step of sampling, in units of σ², with
            the process `score`; 0 for none (DiffCSP's is 0.4). It costs a second look of the
            network.
        sampling_steps: how many of the steps sampling takes where nobody asks for a number; all if
            None.
        farthest_cell: standard deviations of the training data within which cells lie; one farther
            out has run away and is drawn again. None lets all pass.
        volume_scale: factor of the volumes of crystals that were drawn from noise. Amplified steps
            end at likely volumes, which lie below the mean ones.
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
    lattice_process: Literal["diffusion", "flow"] = "diffusion"
    position_process: Literal["path", "flow", "score"] = "path"
    lattice_power: float | None = None
    position_power: float | None = None
    position_sigma: float = 0.5
    position_sigma_min: float | None = None
    coupling: bool = False
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
    position_output: Literal["displacement", "scaled"] = "displacement"
    self_conditioning: bool = False
    dropout: float = 0.0
    shortest_path: bool = True
    cell_noise: float = 1.0
    position_noise: float = 1.0
    anti_annealing: float = 0.0
    cell_anti_annealing: float = 0.0
    corrector: float = 0.0
    sampling_steps: int | None = None
    farthest_cell: float | None = None
    volume_scale: float = 1.0
    refine_strength: float = 0.1

    def __post_init__(self) -> None:
        cls = network_class(self.network)
        check_settings(cls, self.all_network_settings)
        if self.dropout and not cls.can_drop:
            raise ValueError(f"{cls.__name__} has no dropout")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        at_least("steps", self.steps, 1, MOST_STEPS)
        if self.sampling_steps is not None:
            at_least("sampling_steps", self.sampling_steps, 1, self.steps)
        if self.farthest_cell is not None:
            positive("farthest_cell", self.farthest_cell, _LARGEST_POWER)
            if not self.standardize_lattice:
                raise ValueError("farthest_cell counts the deviations of standardised cells")
        positive("volume_scale", self.volume_scale, _LARGEST_POWER)
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
        for name in (
            "cell_noise",
            "position_noise",
            "anti_annealing",
            "cell_anti_annealing",
            "corrector",
        ):
            at_least(name, getattr(self, name), 0, _LARGEST_POWER)
        if self.lattice_space == "raw" and (
            self.cell_decoder == "residual" or self.lattice_loss == "vector"
        ):
            raise ValueError("cells without a vector space are decoded and compared as cells")
        if not self.lattice_diffusion and self.cell_decoder == "noisy":
            raise ValueError("without lattice diffusion there is no noisy cell to decode from")
        if self.position_sigma_min is not None and not (
            0 < self.position_sigma_min <= self.position_sigma
        ):
            raise ValueError("position_sigma_min must be above 0, and at most position_sigma")
        if self.coupling and (self.position_process == "score" or not self.shortest_path):
            raise ValueError("coupling is by shortest paths, which this process does not follow")
        if self.corrector and self.position_process != "score":
            raise ValueError("corrector is of the process 'score' alone")
        if self.cell_anti_annealing and self.lattice_process != "flow":
            raise ValueError("cell_anti_annealing is of a flow of cells alone")

    @property
    def all_network_settings(self) -> dict[str, Any]:
        """Keyword arguments of the network, those that follow from other settings included."""
        extra = {"self_conditioning": True} if self.self_conditioning else {}
        return self.network_settings | extra


def cell_process(config: GemsDiffConfig) -> CellProcess:
    """Make the process of cells."""
    if config.lattice_process == "flow":
        schedule: Preserving | Straight = Straight(config.steps, config.lattice_power or 1.0)
    elif config.lattice_power is None:
        schedule = Preserving(linear_betas(config.steps, *config.lattice_betas))
    else:
        schedule = Preserving(preserving_powers(config.steps, config.lattice_power))
    return CellProcess(cell_space(config), schedule)


def position_process(config: GemsDiffConfig) -> PositionProcess:
    """Make the process of positions."""
    sizes = (config.position_spread, config.position_floor)
    if config.position_process == "flow":
        times = Straight(config.steps, config.position_power or 1.0)
        return FlowProcess(times, *sizes, config.coupling)
    largest = config.position_sigma
    if config.position_sigma_min is not None:
        betas = exploding_geometric(config.steps, config.position_sigma_min, largest)
    elif config.position_power is not None:
        betas = exploding_powers(config.steps, config.position_power, largest)
    else:
        betas = linear_betas(config.steps, *config.position_betas)
    if config.position_process == "score":
        return ScoreProcess(Exploding(betas))
    return PathProcess(Exploding(betas), *sizes, config.shortest_path, config.coupling)


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
