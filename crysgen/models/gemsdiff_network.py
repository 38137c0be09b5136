"""The network of GemsDiff: what it sees of noisy crystals, and what it says of the clean ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crysgen.diffusion.lattice import normalize_lengths, symmetric_exp, symmetric_to_vector
from crysgen.diffusion.space_groups import GroupTensors
from crysgen.diffusion.torus import remove_mean
from crysgen.matrices import determinants
from crysgen.models.base import Model
from crysgen.models.fields import build_fields
from crysgen.models.gemsdiff_config import GemsDiffConfig, cell_process, position_process
from crysgen.networks import build_network
from crysgen.networks.base import Estimate
from crysgen.networks.precision import full_precision, network_precision


class CrystalPredictor(Model):
    """A model that predicts the clean crystal from a noisy one.

    Args:
        config: with the statistics of the cells of the training data.
    """

    config: GemsDiffConfig

    def __init__(self, config: GemsDiffConfig) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.network, config.all_network_settings)
        self.fields = build_fields(self.network, config.head_settings)
        self.of_cells = cell_process(config)
        self.of_positions = position_process(config)
        self.cells = self.of_cells.cells

    @property
    def num_steps(self) -> int:
        """T."""
        return self.config.steps

    def predict(
        self,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        vectors: Tensor,
        steps: Tensor,
        estimate: Estimate | None = None,
        group: GroupTensors | tuple[()] = (),
    ) -> tuple[Tensor, Tensor]:
        """Predict the clean crystal (Algorithm 1, line 5).

        Args:
            atomic_numbers: (B, N).
            frac_coords: (B, N, 3) noisy.
            vectors: (B, D) noisy cells in the cell space.
            steps: (B,) int.
            estimate: of the clean crystal, for self-conditioning.
            group: onto which the cells are projected that the network sees.

        Returns:
            The displacement ε_θ (B, N, 3) that leads to x_0, and the cell: x_0^ρ (B, 6) with the
            decoder `residual`, ρ_0 (B, 3, 3) divided by N^(1/3) with the others.
        """
        mask = atomic_numbers > 0
        counts = mask.sum(1)
        with full_precision(frac_coords):
            lattices = self._seen_cells(vectors, steps, counts)
            if group:
                lattices = group.project_lattices(lattices)
            neighbours = self.network.search(frac_coords, lattices, mask)
        return self._predicted(
            atomic_numbers, frac_coords, steps, lattices, neighbours, estimate=estimate
        )

    def _predicted(
        self,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        steps: Tensor,
        lattices: Tensor,
        neighbours: Any,
        **extra: Any,
    ) -> tuple[Tensor, Tensor]:
        mask = atomic_numbers > 0
        share = (steps / self.num_steps).to(frac_coords)
        given = {name: value for name, value in extra.items() if value is not None}
        with network_precision(frac_coords):
            features = self.network(atomic_numbers, lattices, share, neighbours, **given)
            displacement, strain = self.fields(features, lattices, mask)
        with full_precision(frac_coords):
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
        if self.config.position_output == "scaled":
            displacement = displacement * self.of_positions.unknown(steps).to(frac_coords)
        strain = strain.to(frac_coords)
        one = torch.eye(3, dtype=strain.dtype, device=strain.device)
        if self.config.cell_decoder == "identity":
            return displacement, one + strain
        if self.config.cell_decoder == "noisy":
            return displacement, normalize_lengths(lattices, counts) @ (one + strain)
        if not self.config.lattice_diffusion:
            return displacement, symmetric_to_vector(strain)
        left = self.of_cells.unknown(steps, strain)
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
            vectors = self.of_cells.expected(vectors, steps)
        return self.cells.decode(vectors, counts)

    def _clean_vectors(self, cell: Tensor, atomic_numbers: Tensor) -> Tensor:
        """Return vectors (B, D) of predicted cells, in whatever form `predict` gave them."""
        if self.config.cell_decoder == "residual":
            return cell
        return self.cells.encode(cell, torch.ones_like(atomic_numbers[:, 0]))
