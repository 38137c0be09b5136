"""The adaptive-cell model: crystals of a chosen space group by annealed Langevin dynamics.

"Data-Driven Score-Based Models for Generating Stable Structures with Adaptive Crystal Cells"
(arXiv 2310.10695): score matching on positions and lattice together, on the non-equivalent sites of
a crystal, whose symmetry every sample obeys. CONTRIBUTING.md lists where this departs from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from crysgen.diffusion.lattice import symmetric_exp
from crysgen.diffusion.noise import Noise, spread_steps
from crysgen.diffusion.operations import OperationTable
from crysgen.diffusion.positions import uniform
from crysgen.diffusion.schedules import step_tensor, steps_back
from crysgen.diffusion.space_groups import GroupTensors, place_orbits, stack_orbits
from crysgen.diffusion.torus import wrap
from crysgen.matrices import determinants, inverses
from crysgen.models.adaptive_cell_config import AdaptiveCellConfig
from crysgen.models.adaptive_cell_geometry import Geometry, rows_at, turned
from crysgen.models.adaptive_cell_noise import langevin_step, level_inputs, noise_sigmas
from crysgen.models.adaptive_cell_start import fitted_shapes, start_lattices, symmetric_noise
from crysgen.models.base import Model, OnStep, walked
from crysgen.models.targets import Target
from crysgen.networks.sitenet import SiteFeatures, SiteGraph, SiteNet, search_sites
from crysgen.training.batch import Batch, pad_atomic_numbers
from crysgen.training.site_data import NUM_SITES, SPACE_GROUP, with_sites
from crysgen.wyckoff.draws import draw_target
from crysmetrics.io import Crystals

_SMALL = 0.03
"""Of the last weights: a new model hardly moves anything."""


class _Prepared(NamedTuple):
    """A batch with noise, and what is to be predicted.

    Attributes:
        graph: of the noisy crystals.
        geometry: of the same.
        levels: (B, 2) of the noise of positions and lattice, -1 to 1.
        moves: (B, M, 3) normal noise of positions, as the sites allow it.
        strain: (B, 3, 3) normal noise of the lattice, as the group allows it.
        freedom: (B,) numbers that the lattice has.
        counts: (B, 2) whether errors of positions and of the lattice count.
    """

    graph: SiteGraph
    geometry: Geometry
    levels: Tensor
    moves: Tensor
    strain: Tensor
    freedom: Tensor
    counts: Tensor


class _State(NamedTuple):
    """Crystals on the way.

    Attributes:
        atomic_numbers: (B, N); 0 is padding.
        frac_coords: (B, N, 3).
        lattices: (B, 3, 3) rows in Å.
        sites: (B, M) the atom that stands for each site.
        present: (B, M) where sites are.
        site_of: (B, N) the site of each atom.
        group: that the crystals obey.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattices: Tensor
    sites: Tensor
    present: Tensor
    site_of: Tensor
    group: GroupTensors


class _Step(NamedTuple):
    """Inputs of one step.

    Attributes:
        now: () level; see `step_tensor`.
        following: () next level; 0 is no noise.
        strain: (B, 6) normal numbers.
        moves: (B, N, 3) normal numbers.
    """

    now: Tensor
    following: Tensor
    strain: Tensor
    moves: Tensor


class AdaptiveCell(Model):
    """The processes over a network of sites.

    Args:
        config: with the statistics of the cells of the training data.
    """

    kind: ClassVar[str] = "adaptive_cell"
    paper: ClassVar[str] = (
        "Data-Driven Score-Based Models for Generating Stable Structures with Adaptive Crystal "
        "Cells (arXiv 2310.10695, 2023)"
    )
    Config = AdaptiveCellConfig
    accepts = frozenset({"atomic_numbers", "space_group", "sites"})
    requires = frozenset({"atomic_numbers", "space_group"})
    sampling_settings = frozenset(
        {"position_step", "lattice_step", "position_temperature", "lattice_temperature"}
    )

    config: AdaptiveCellConfig

    def __init__(self, config: AdaptiveCellConfig) -> None:
        super().__init__()
        self.config = config
        self.network = SiteNet(**config.network_settings)
        width = self.network.edge_channels
        # Edge outputs of Sections 4.2 and 4.3.
        self.score = nn.Linear(width, 1, bias=False)
        self.contraction = nn.Linear(width, 1, bias=False)
        for layer in (self.score, self.contraction):
            nn.init.normal_(layer.weight, std=_SMALL / math.sqrt(width))
        self.table = OperationTable()

    @classmethod
    def training_form(cls, crystals: Crystals, config: AdaptiveCellConfig) -> Crystals:
        """See `Model`: primitive cells in standard settings, of few enough sites."""
        found = with_sites(crystals)
        few = found.properties[NUM_SITES] <= config.max_sites
        return found[few].with_failures(found.failures)

    @classmethod
    def fitted(cls, config: AdaptiveCellConfig, train: Batch) -> AdaptiveCellConfig:
        """Return the configuration with statistics of volumes and of the shapes of cells."""
        volume, shapes = fitted_shapes(train)
        return replace(config, volume=volume, shapes=shapes)

    @property
    def num_steps(self) -> int:
        """Levels, each of which is looked at once, or twice if positions are learned apart."""
        return self.config.levels

    # --- training -----------------------------------------------------------------------------

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, stage: str = "model"
    ) -> dict[str, Tensor]:
        """Compute `loss` (Eq. 6), and its parts `position` and `lattice`; see `Model`."""
        return self.prepared_loss(self.prepare(batch, generator, stage), stage)

    @torch.no_grad()
    def prepare(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        stage: str = "model",
        parts: int = 1,
    ) -> _Prepared:
        """See `Prepares`. Levels are spread evenly over each part."""
        device, lattices = batch.lattices.device, batch.lattices
        with torch.autocast(device.type, enabled=False):
            size, atoms = batch.atomic_numbers.shape
            each = [
                spread_steps(size // parts, self.config.levels, generator, device)
                for _ in range(parts)
            ]
            level = torch.cat(each)
            numbers = batch.properties[SPACE_GROUP].long()
            orbits = self.table.orbits(batch.frac_coords, batch.atomic_numbers, numbers)
            count = min(atoms, self.config.max_sites)
            sites = torch.arange(count, device=device).expand(size, -1)
            present = (orbits.first[:, :count] == sites) & batch.mask[:, :count]
            both = torch.ones(size, 2, dtype=lattices.dtype, device=device)
            if self.config.separate:
                # Every other crystal is for the lattice, with both noises; the rest have one.
                both[::2, 0], both[1::2, 1] = 0, 0
            noises = noise_sigmas(self.config, level).to(lattices)
            if self.config.separate:
                noises = torch.stack([noises[:, 0], noises[:, 1] * both[:, 1]], -1)
            turns = orbits.operations.to(lattices)
            geometry = Geometry.of(orbits.projectors[:, :count], turns, orbits.weights, lattices)
            raw = torch.randn(size, 3, 3, generator=generator, device=device).to(lattices)
            strain = geometry.strain((raw + raw.mT) / 2)
            bent = lattices @ symmetric_exp(noises[:, 1, None, None] * strain)
            geometry = Geometry.of(orbits.projectors[:, :count], turns, orbits.weights, bent)
            length = (determinants(bent).abs() / batch.num_atoms).pow(1 / 3)
            raw = torch.randn(size, count, 3, generator=generator, device=device).to(lattices)
            moves = turned(geometry.sites, raw) * present[..., None]
            shift = (noises[:, 0] * length)[:, None, None] * moves @ inverses(bent)
            own = rows_at(shift, orbits.first.clamp_max(count - 1))
            frac = wrap(batch.frac_coords + turned(orbits.rotations.to(own), own))
            graph = self._graph(
                batch.atomic_numbers, frac, bent, sites, present, orbits.first, geometry
            )
        freedom = self.table.freedom[numbers].to(lattices)
        told = level_inputs(self.config, noises)
        return _Prepared(graph, geometry, told, moves, strain, freedom, both)

    def prepared_loss(self, prepared: _Prepared, stage: str = "model") -> dict[str, Tensor]:
        """See `Prepares`: squared errors of the noise, that is λ = σ² in Eq. 6."""
        graph = prepared.graph
        moves, strain = self._scores(graph, prepared.geometry, prepared.levels)
        with torch.autocast(moves.device.type, enabled=False):
            present = (graph.atomic_numbers > 0).to(moves)
            weights = graph.multiplicity * present * prepared.counts[:, :1]
            errors = (moves - prepared.moves).square().sum(-1) * weights
            position = errors.sum() / (weights * graph.freedom).sum().clamp_min(1)
            errors = (strain - prepared.strain).square().sum((1, 2)) / prepared.freedom
            lattice = (errors * prepared.counts[:, 1]).sum() / prepared.counts[:, 1].sum()
        return {"loss": position + lattice, "position": position, "lattice": lattice}

    # --- scores ---------------------------------------------------------------------------------

    def _graph(
        self,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        sites: Tensor,
        present: Tensor,
        site_of: Tensor,
        geometry: Geometry,
    ) -> SiteGraph:
        """Build the multigraph of Section 4.1, on the device."""
        mask = atomic_numbers > 0
        found = search_sites(frac_coords, lattices, mask, sites, site_of, self.network.k)
        same = (site_of[:, None] == torch.arange(sites.shape[1], device=mask.device)[:, None]) & (
            mask[:, None]
        )
        return SiteGraph(
            atomic_numbers.gather(1, sites) * present,
            same.sum(-1).to(lattices) * present,
            geometry.sites.diagonal(dim1=-2, dim2=-1).sum(-1),
            (determinants(lattices).abs() / mask.sum(1)).pow(1 / 3),
            found,
        )

    def _scores(
        self, graph: SiteGraph, geometry: Geometry, levels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise of sites (B, M, 3) and of lattices (B, 3, 3), in units of σ.

        Positions: a weighted sum of the directions of a site's edges (Section 4.2). Lattice: each
        edge is told how much it was stretched, and the strain is the mean of those that would
        stretch each edge so, ∂ ln r/∂ε = u uᵀ, projected onto the strains of the group (4.3).
        """
        features: SiteFeatures = self.network(graph, levels)
        units, fade = features.graph.units, features.graph.fade[..., None]
        with torch.autocast(units.device.type, enabled=False):
            edges = features.edges.to(units)
            pushed = self.score(edges) * fade
            moves = turned(geometry.sites, (pushed * units).sum(2))
            # As many of each site's edges as atoms that it stands for.
            weights = self.contraction(edges) * fade * graph.multiplicity[..., None, None]
            left = (weights * units).flatten(1, 2)
            strain = left.mT @ units.flatten(1, 2) / graph.multiplicity.sum(1)[:, None, None]
            return moves, geometry.strain((strain + strain.mT) / 2)

    # --- sampling -------------------------------------------------------------------------------

    def sample(
        self,
        targets: Sequence[Target],
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Batch:
        """Sample crystals of the given atoms and space groups (Algorithm 1); see `Model.sample`."""
        return walked(self, *self.begin(targets, steps), on_step)

    @torch.no_grad()
    def begin(
        self, targets: Sequence[Target], steps: int | None = None
    ) -> tuple[_State, list[_Step]]:
        """See `Stepwise`: sites uniform on positions that are drawn, lattices normal."""
        drawn = [draw_target(target) for target in targets]
        orbits = [one.orbits for one in drawn]
        numbers = pad_atomic_numbers([one.atomic_numbers for one in drawn]).to(self.device)
        mask = numbers > 0
        elements = [one.elements for one in drawn]
        group = stack_orbits(orbits, elements, mask.shape[1], self.device)
        plan = steps_back(self.config.levels, None, steps)
        seeds = [target.seed for target in targets]
        noise = Noise(seeds, mask.sum(1), 12, len(plan))
        weights = next(self.network.parameters())
        zeros = torch.zeros(*mask.shape, 3, dtype=weights.dtype, device=mask.device)
        draw, moves = noise.draw(zeros)
        frac = place_orbits(orbits, uniform(moves)) * mask[..., None]
        largest = self.config.lattice_sigmas[1]
        lattices = start_lattices(orbits, draw.double().cpu(), self.config, largest)
        lattices = group.project_lattices(lattices.to(zeros))
        count = max(map(len, elements))
        sites, present = torch.zeros(2, len(targets), count, dtype=torch.long, device=mask.device)
        for row, one in enumerate(orbits):
            first = torch.unique(torch.from_numpy(one.first))
            sites[row, : len(first)] = first.to(sites)
            present[row, : len(first)] = 1
        is_site = (group.first[..., None] == sites[:, None]) & (present[:, None] > 0)
        site_of = is_site.to(torch.uint8).argmax(-1)
        way = [
            _Step(step_tensor(t, mask.device), step_tensor(s, mask.device), *each)
            for (t, s), each in zip(pairwise(plan), noise.rest(zeros), strict=True)
        ]
        return _State(numbers, frac, lattices, sites, present > 0, site_of, group), way

    @torch.no_grad()
    def step(self, state: _State, inputs: _Step) -> _State:
        """See `Stepwise`: from one level to the next, positions first, then the lattice.

        Langevin dynamics, x - η σ ε plus noise, where the noise is what the next level has more
        than what is left of this one's (consistent annealed sampling, Jolicoeur-Martineau et al.,
        ICLR 2021), and η is as large as that needs.
        """
        now, following = (
            noise_sigmas(self.config, inputs.now),
            noise_sigmas(self.config, inputs.following),
        )
        graph, geometry = self._seen(state)
        size = len(state.lattices)
        levels = level_inputs(self.config, now).to(state.lattices)
        at_first = levels
        if self.config.separate:
            at_first = torch.stack([levels[0], torch.full_like(levels[1], -1.5)])
        moves, strain = self._scores(graph, geometry, at_first.expand(size, -1))
        jitter = turned(geometry.sites, rows_at(inputs.moves, state.sites))
        step, spread = langevin_step(now[0], following[0], self.config.position_step)
        shift = -step * moves + self.config.position_temperature * spread * jitter
        shift = (graph.length[:, None, None] * shift.to(state.lattices)) @ inverses(state.lattices)
        every = state.group.rotations.to(shift) @ rows_at(shift, state.site_of)[..., None]
        frac = state.frac_coords + every.squeeze(-1)
        state = state._replace(frac_coords=wrap(state.group.project_frac_coords(frac)))
        if self.config.separate:
            graph, geometry = self._seen(state)
            _, strain = self._scores(graph, geometry, levels.expand(size, -1))
        step, spread = langevin_step(now[1], following[1], self.config.lattice_step)
        raw = geometry.strain(symmetric_noise(inputs.strain[:, :6]))
        strain = -step * strain + self.config.lattice_temperature * spread * raw
        bent = state.lattices @ symmetric_exp(strain.to(state.lattices))
        return state._replace(lattices=state.group.project_lattices(bent))

    def _seen(self, state: _State) -> tuple[SiteGraph, Geometry]:
        """Build the multigraph of crystals on the way, and what they allow."""
        group, lattices = state.group, state.lattices
        projectors = rows_at(group.projectors, state.sites)
        rotations = group.point_group.to(lattices)
        geometry = Geometry.of(projectors, rotations, group.weights, lattices)
        graph = self._graph(
            state.atomic_numbers,
            state.frac_coords,
            lattices,
            state.sites,
            state.present,
            state.site_of,
            geometry,
        )
        return graph, geometry

    @torch.no_grad()
    def finish(self, state: _State) -> Batch:
        """See `Stepwise`; crystals come in conventional cells."""
        return Batch(*state.group.conventional_cells(state.frac_coords, state.lattices))
