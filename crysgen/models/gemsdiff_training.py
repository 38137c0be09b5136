"""GemsDiff in training: noise on crystals, and the loss of Algorithm 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crysgen.diffusion.lattice import lattice_parameters
from crysgen.diffusion.noise import kept_channels, spread_steps
from crysgen.diffusion.torus import remove_mean
from crysgen.models.gemsdiff_config import GemsDiffConfig, cell_statistics
from crysgen.models.gemsdiff_network import CrystalPredictor
from crysgen.networks.base import Estimate
from crysgen.networks.precision import full_precision
from crysgen.training.batch import Batch

_SMALLEST_SIGMA = 0.02
"""Of the lattice: below it errors are no longer divided by the noise."""


class _Prepared(NamedTuple):
    """A batch with noise, and what the network sees of it.

    Attributes:
        clean: atomic numbers (B, N), positions (B, N, 3), cells (B, 3, 3) in Å.
        vectors: (B, D) clean cells in the cell space.
        noisy: (B, D) noisy ones.
        frac_coords: (B, N, 3) noisy.
        displacement: (B, N, 3) that is to be predicted.
        steps: (B,) int.
        lattices: (B, 3, 3) in Å, that the network sees.
        neighbours: of the noisy crystals.
        kept: channels that dropout leaves, see `Network.forward`; () without dropout.
    """

    clean: tuple[Tensor, Tensor, Tensor]
    vectors: Tensor
    noisy: Tensor
    frac_coords: Tensor
    displacement: Tensor
    steps: Tensor
    lattices: Tensor
    neighbours: Any
    kept: Any


class TrainableGemsDiff(CrystalPredictor):
    """The process over a network, with its loss.

    Args:
        config: with the statistics of the cells of the training data.
    """

    Config = GemsDiffConfig

    @classmethod
    def fitted(cls, config: GemsDiffConfig, train: Batch) -> GemsDiffConfig:
        """Return the configuration with mean and standard deviation of the cells."""
        mean, std = cell_statistics(config, train)
        return replace(config, lattice_mean=tuple(mean), lattice_std=tuple(std))

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, stage: str = "model"
    ) -> dict[str, Tensor]:
        """Compute `loss` by Algorithm 1, and its parts `position` and `lattice`; see `Model`."""
        return self.prepared_loss(self.prepare(batch, generator, stage), stage)

    @torch.no_grad()
    def prepare(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        stage: str = "model",
        parts: int = 1,
    ) -> _Prepared:
        """See `Prepares`. Steps are spread evenly over each part, each still uniform on 1 to T."""
        device = batch.lattices.device
        with full_precision(batch.lattices):
            size = len(batch) // parts
            drawn = [spread_steps(size, self.num_steps, generator, device) for _ in range(parts)]
            steps = torch.cat(drawn)
            vectors = self.cells.encode(batch.lattices, batch.num_atoms)
            cell_noise = torch.randn(vectors.shape, generator=generator, device=device).to(vectors)
            shape = batch.frac_coords.shape
            moves = torch.randn(shape, generator=generator, device=device).to(vectors)
            noisy = self.of_cells.noised(vectors, steps, cell_noise)
            frac, displacement = self.of_positions.noised(
                batch.frac_coords, batch.atomic_numbers, steps, moves
            )
            lattices = self._seen_cells(noisy, steps, batch.num_atoms)
            neighbours = self.network.search(frac, lattices, batch.mask)
            kept: Any = ()
            if self.config.dropout:
                share = self.config.dropout if self.training else 0.0
                kept = kept_channels(len(batch), self.network.droppable, share, generator, vectors)
        clean = (batch.atomic_numbers, batch.frac_coords, batch.lattices)
        return _Prepared(
            clean, vectors, noisy, frac, displacement, steps, lattices, neighbours, kept
        )

    def prepared_loss(self, prepared: _Prepared, stage: str = "model") -> dict[str, Tensor]:
        """See `Prepares`."""
        batch, steps = Batch(*prepared.clean), prepared.steps
        displacement, cell = self._predicted(
            batch.atomic_numbers,
            prepared.frac_coords,
            steps,
            prepared.lattices,
            prepared.neighbours,
            estimate=self._first_estimate(prepared) if self.config.self_conditioning else None,
            kept=prepared.kept if self.config.dropout else None,
        )
        with full_precision(batch.lattices):
            errors = remove_mean(prepared.displacement - displacement, batch.mask)
            if self.config.position_loss == "scaled":
                errors = errors / self.of_positions.unknown(steps).to(errors)
            # Eq. 20, its mean over atoms. A shift of all atoms is nobody's error.
            position = (errors.square().sum(-1) * batch.mask).sum() / batch.mask.sum()
            lattice = self._lattice_loss(batch, prepared.vectors, prepared.noisy, cell, steps)
        return {"loss": position + lattice, "position": position, "lattice": lattice}

    @torch.no_grad()
    def _first_estimate(self, prepared: _Prepared) -> Estimate:
        """Predict every other crystal of a batch once, as sampling has done a step before."""
        some = selected(prepared, slice(None, None, 2))
        numbers, counts = some.clean[0], (some.clean[0] > 0).sum(1)
        displacement, cell = self._predicted(
            numbers, some.frac_coords, some.steps, some.lattices, some.neighbours
        )
        lattices = self.cells.decode(self._clean_vectors(cell, numbers), counts)
        known = torch.zeros_like(prepared.vectors[:, 0])
        known[::2] = 1
        moved, cells = torch.zeros_like(prepared.frac_coords), prepared.lattices.clone()
        moved[::2], cells[::2] = displacement, lattices
        return Estimate(moved, cells, known)

    def _lattice_loss(
        self, batch: Batch, vectors: Tensor, noisy: Tensor, cell: Tensor, steps: Tensor
    ) -> Tensor:
        if self.config.lattice_loss == "vector":
            errors = (self._clean_vectors(cell, batch.atomic_numbers) - vectors).square().mean(-1)
            if self.config.lattice_diffusion:
                sigma = self.of_cells.schedule.sigma(steps).to(errors)
                errors = errors / sigma.clamp_min(_SMALLEST_SIGMA).square()
            return errors.mean()
        ones = torch.ones_like(batch.num_atoms)
        if self.config.cell_decoder == "residual":
            cell = self.cells.decode(cell, ones)
        target = vectors
        if self.config.lattice_loss == "posterior":
            target = self.of_cells.posterior_mean(vectors, noisy, steps)
        goal = lattice_parameters(self.cells.decode(target, ones))
        return (lattice_parameters(cell) - goal).norm(dim=-1).mean()


def selected(values: Any, rows: Tensor | slice) -> Any:
    """Take rows of tensors in nested tuples; a number is the same for all rows."""
    if isinstance(values, Tensor):
        return values[rows] if values.ndim else values
    parts = [selected(value, rows) for value in values]
    return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)
