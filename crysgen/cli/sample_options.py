"""Options of `crysgen sample`, and their values together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysgen.cli.options import (
    batch_size_option,
    excluded_ids,
    model_option,
    space_group_number,
)
from crysgen.proposers.base import LIBRARIES, METHODS
from crysmetrics.cli.options import (
    cache_option,
    cif_column_option,
    device_option,
    id_column_option,
    json_option,
    overwrite_option,
    quiet_option,
    seed_option,
    workers_option,
)

if TYPE_CHECKING:
    from crysgen.settings import Resources, SamplingSettings

DEFAULT_COUNT = 16
"""Samples of each composition."""

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Decorator that gives a command an option."""


@dataclass(frozen=True)
class SampleCall:
    """Values of all options of `crysgen sample`; the options say what each means."""

    composition: tuple[str, ...]
    compositions: str | None
    id_column: str | None
    cif_column: str | None
    system: str | None
    subsystems: bool
    max_compositions: int | None
    count: int | None
    formula_units: str
    max_atoms: int | None
    num_atoms: int | None
    output: Path | None
    method: str
    model: str | None
    steps: int | None
    library: str
    symmetrize: bool | None
    space_group: str | None
    exclude: str | None
    exclude_file: Path | None
    tolerance: float
    energies: bool
    relax: bool
    dispersion: bool
    batch_size: int | None
    device: str
    workers: int | None
    cache: str | None
    seed: int
    json_path: str | None
    quiet: bool
    overwrite: bool

    @property
    def is_free(self) -> bool:
        """Whether the model chooses compositions."""
        return not self.composition and self.compositions is None and self.system is None

    def settings(self) -> SamplingSettings:
        """Collect what decides the result.

        Crystals of all compositions are not ranked by energies, which do not compare.
        """
        from crysgen.settings import SamplingSettings

        return SamplingSettings(
            method="diffusion" if self.is_free else self.method,
            model=self.model,
            steps=self.steps,
            library=self.library,
            seed=self.seed,
            max_atoms=self.max_atoms,
            energies=self.energies and not self.is_free,
            relax=self.relax,
            dispersion=self.dispersion,
            symmetrize=self.symmetrize,
            tolerance=self.tolerance,
            space_group=space_group_number(self.space_group),
            exclude=excluded_ids(self.exclude, self.exclude_file),
        )

    def resources(self) -> Resources:
        """Collect what decides how fast."""
        from crysgen.settings import Resources

        return Resources(self.device, self.workers, self.batch_size, self.cache)


COMPOSITIONS: tuple[Option, ...] = (
    click.option(
        "--composition",
        multiple=True,
        metavar="FORMULA",
        help="Such as Li2O, Ca(OH)2 or CuSO4·5H2O; repeatable.",
    ),
    click.option(
        "--compositions",
        metavar="FILE|FOLDER",
        help="A text with one formula a line, or structures whose cell compositions are wanted.",
    ),
    id_column_option,
    cif_column_option,
    click.option("--system", metavar="A-B-C", help="All compositions of a system such as Li-Fe-O."),
    click.option("--subsystems", is_flag=True, help="With --system: those of fewer elements too."),
    click.option(
        "--max-compositions",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --system: only the N most plausible "
        "(charge-neutral and of a common type first).",
    ),
    click.option(
        "-n",
        "--num-samples",
        "count",
        type=click.IntRange(min=1),
        metavar="N",
        help="Structures of each composition, over all its cell sizes; or in all.  "
        f"[default: {DEFAULT_COUNT}]",
    ),
    click.option(
        "--formula-units",
        default="auto",
        show_default=True,
        metavar="auto|1,2,4",
        help="Formulas in a cell; auto: as real compounds of that type have it.",
    ),
    click.option(
        "--max-atoms",
        type=click.IntRange(min=1),
        help="Of a cell; 20 by default, or one formula unit where that is more, and 64 for known "
        "prototypes. Known structures of a formula are given whatever their size.",
    ),
    click.option(
        "--num-atoms",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of a cell, where the model chooses the composition.",
    ),
)
"""Options that say which compositions and cells."""

METHOD: tuple[Option, ...] = (
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="By default a new one named after formula and seed.",
    ),
    click.option(
        "--method",
        type=click.Choice(list(METHODS)),
        default="auto",
        show_default=True,
        help="Where candidates come from.",
    ),
    model_option,
    click.option("--steps", type=click.IntRange(min=1), help="Of the diffusion; all by default."),
    click.option(
        "--library",
        type=click.Choice(LIBRARIES),
        default="known",
        show_default=True,
        help="Known structures that proposals start from: all, or only what benchmarks may see.",
    ),
)
"""Options that say where candidates come from."""

STRUCTURES: tuple[Option, ...] = (
    click.option(
        "--symmetrize/--no-symmetrize",
        default=None,
        help="CIFs in conventional cells and space groups found; or samples of models as they come "
        "out. By default those are made exactly symmetric in the cells they stand in, in P1.",
    ),
    click.option(
        "--space-group",
        metavar="SG",
        help="Only crystals of this space group, symmetrised: a number, or a symbol such as Fm-3m.",
    ),
    click.option("--exclude", metavar="ID,...", help="Known structures that must not be proposed."),
    click.option(
        "--exclude-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The same, one id a line.",
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(min=0, min_open=True),
        default=0.1,
        show_default=True,
        help="Å within which symmetry is found.",
    ),
)
"""Options that say which structures are wanted, and how they are written."""

ENERGIES: tuple[Option, ...] = (
    click.option(
        "--energies/--no-energies",
        default=True,
        show_default=True,
        help="Predict formation energies by ALIGNN, and rank samples from noise by them.",
    ),
    click.option(
        "--relax",
        is_flag=True,
        help="Relax the likeliest structures with CHGNet, and rank them by its energies too.",
    ),
    click.option(
        "--dispersion/--no-dispersion",
        default=True,
        show_default=True,
        help="Add D3 dispersion when relaxing, unless all elements are metals.",
    ),
)
"""Options that say which energies are computed."""

COMMON: tuple[Option, ...] = (
    batch_size_option,
    seed_option,
    device_option,
    workers_option,
    cache_option,
    json_option,
    quiet_option,
    overwrite_option,
)
"""Options that other commands have too."""


def sample_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all options, in the order in which help lists them."""
    for option in reversed((*COMPOSITIONS, *METHOD, *STRUCTURES, *ENERGIES, *COMMON)):
        command = option(command)
    return command
