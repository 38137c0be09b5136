"""CrysLDM within space groups: latents of atoms are those of orbits, cells those of the group."""

from __future__ import annotations

from torch import Tensor

from crysgen.diffusion.space_groups import GroupTensors
from crysgen.models.crysldm_cells import CellForm
from crysgen.models.crysldm_networks import Latents, LatentScale


def of_first_atoms(values: Tensor, group: GroupTensors) -> Tensor:
    """Give every atom the numbers (B, N, D) of the first one of its orbit, such as noise."""
    return values.gather(1, group.first[..., None].expand_as(values))


def orbit_means(values: Tensor, group: GroupTensors) -> Tensor:
    """Average numbers (B, N, D) of atoms over each orbit."""
    return (group.means @ values.double()).to(values)


def allowed_latents(
    latents: Latents, scale: LatentScale, form: CellForm, counts: Tensor, group: GroupTensors
) -> Latents:
    """Project latents onto what space groups allow.

    The latents of a cell are the numbers of the cell itself, within 0.001 of their spread: its
    part of the autoencoder has nothing to compress.

    Args:
        latents: of B crystals, standardised.
        scale: of latents.
        form: of cells.
        counts: (B,) atoms.
        group: of the crystals.
    """
    restored = scale.restored(latents)
    lattices = group.project_lattices(form.decode(restored.cell, counts))
    cell = form.encode(lattices, counts).to(latents.cell)
    allowed = scale.standardized(Latents(restored.atoms, cell)).cell
    return Latents(orbit_means(latents.atoms, group), allowed)
