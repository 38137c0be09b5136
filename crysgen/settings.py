"""Settings that decide the structures of a run, and resources that only decide how fast."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from crysgen.config_values import MOST_STEPS
from crysgen.file_formats import CELLS, FILE_FORMATS
from crysgen.proposers.base import LIBRARIES
from crysmetrics.device import refuse_missing_device
from crysmetrics.errors import UserError

LARGEST_SEED = 2**63 - 1
"""Largest seed that the table of samples can hold."""


@dataclass(frozen=True)
class SamplingSettings:
    """Settings that decide, beside the compositions, which structures come out.

    Attributes:
        method: a name of `crysgen.proposers.base.METHODS`.
        model: name or path of a diffusion model; None for the default one.
        steps: of the reverse diffusion; None for the model's default.
        library: `known` for all that is known, `benchmark` for what benchmarks may see.
        seed: from which every structure's own seed follows.
        max_atoms: of a cell; None for what `ask_formulas` chooses.
        energies: whether ALIGNN predicts formation energies, which then rank samples from noise.
        relax: whether the likeliest structures are relaxed, and energies order them.
        unsure_only: relax only the compositions whose order is uncertain without energies.
        potentials: that relax, each what the one before left; names of `known_potentials`.
        dispersion: whether relaxation adds dispersion (D3) where an element is no metal.
        symmetrize: None makes samples of models exactly symmetric in the cells they stand in, False
            leaves them as they are, True puts all crystals into conventional cells of the space
            groups found.
        tolerance: Å within which symmetry is found.
        space_group: number of the only space group that is wanted; crystals are symmetrised.
        draw_space_groups: whether each sample of a model gets a space group that is likely for its
            atoms, and each refined crystal that of its prototype, which it then has exactly.
        sites: atomic numbers of the non-equivalent sites of each sample of a model, where no
            composition is given.
        exclude: ids of known structures that must not be proposed.
        cell: `primitive` or `conventional` for standard cells of the space groups found, in which
            the symmetry is exact; None to leave cells as they are.
        formats: names of the formats in which each structure is written; tables name the first of
            cif, poscar, extxyz among them.
        pictures: whether a drawing of each structure is written beside it, as SVG.

    Raises:
        UserError: if a number is out of range.
    """

    method: str = "auto"
    model: str | None = None
    steps: int | None = None
    library: str = "known"
    seed: int = 0
    max_atoms: int | None = None
    energies: bool = True
    relax: bool = False
    unsure_only: bool = False
    potentials: tuple[str, ...] = ("chgnet",)
    dispersion: bool = True
    symmetrize: bool | None = None
    tolerance: float = 0.1
    space_group: int | None = None
    draw_space_groups: bool = False
    sites: tuple[int, ...] = ()
    exclude: tuple[str, ...] = ()
    cell: str | None = None
    formats: tuple[str, ...] = ("cif",)
    pictures: bool = False

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise UserError(
                f"There is no library {self.library!r}; known are {', '.join(LIBRARIES)}."
            )
        refuse_potentials(self.potentials)
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"Seeds are whole numbers from 0 to {LARGEST_SEED}, not {self.seed}.")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise UserError(f"The tolerance must be a positive number of Å, not {self.tolerance}.")
        numbers = [n for n in (self.max_atoms, self.steps) if n is not None]
        if any(n < 1 for n in numbers):
            raise UserError("Numbers of atoms and of steps must be at least 1.")
        if (self.steps or 0) > MOST_STEPS:
            raise UserError(f"Sampling takes at most {MOST_STEPS} steps; not {self.steps}.")
        if self.space_group is not None and not 1 <= self.space_group <= 230:
            raise UserError(f"Space groups have numbers from 1 to 230; not {self.space_group}.")
        if self.draw_space_groups and self.space_group:
            raise UserError("Space groups are drawn, or one is given: not both.")
        if self.cell not in (None, *CELLS):
            raise UserError(f"Cells are {' or '.join(CELLS)}; not {self.cell!r}.")
        if self.cell is not None and self.symmetrize is False:
            raise UserError(
                "Primitive and conventional cells are those of the space group found, whose "
                "symmetry --no-symmetrize leaves inexact; give --cell or --no-symmetrize."
            )
        unknown = [name for name in self.formats if name not in FILE_FORMATS]
        if unknown or not self.formats:
            raise UserError(
                f"Structures are written as {', '.join(FILE_FORMATS)}; not {', '.join(unknown)}."
            )

    @property
    def gives_groups(self) -> bool:
        """Whether each sample of a model gets a space group of its own, which it has exactly."""
        return self.draw_space_groups or self.method == "wyckoff"

    @property
    def standard_cells(self) -> bool:
        """Whether the symmetry found is made exact: asked for, or needed for cell or group."""
        given = self.space_group is not None or self.gives_groups
        return bool(self.symmetrize) or given or self.cell is not None

    @property
    def conventional_cells(self) -> bool:
        """Whether crystals are put into conventional cells."""
        return self.standard_cells and self.cell != "primitive"

    def to_json(self) -> dict[str, Any]:
        """Convert to what JSON can hold."""
        return asdict(self)


def refuse_potentials(names: tuple[str, ...]) -> None:
    """Check names of potentials.

    Raises:
        UserError: if there is none, one is unknown, or one is named twice.
    """
    from crysmetrics.potentials.registry import known_potentials

    known = known_potentials()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(f"Potentials are {', '.join(known)}; not {', '.join(unknown)!r}.")
    if len(set(names)) < len(names):
        raise UserError(f"A potential is named twice: {', '.join(names)}.")


@dataclass(frozen=True)
class Resources:
    """Resources of a run; results do not depend on them but for rounding.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        workers: cores to use; None for all.
        batch_size: structures that are denoised together; None to choose.
        cache: where features are kept between runs, as `--cache` has it.

    Raises:
        UserError: if there is no such device here, even if no network will run.
    """

    device: str = "auto"
    workers: int | None = None
    batch_size: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        refuse_missing_device(self.device)
