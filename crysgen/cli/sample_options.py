"""Options of `crysgen sample`, and their values together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crysgen.cli.options import (
    batch_size_option,
    excluded_ids,
    model_option,
    parse_sites,
    space_group_number,
)
from crysgen.config_values import MOST_STEPS
from crysgen.file_formats import CELLS, FILE_FORMATS
from crysgen.proposers.base import LIBRARIES, METHODS
from crysmetrics.cli.options import (
    cache_option,
    cif_column_option,
    device_option,
    id_column_option,
    json_option,
    listed,
    overwrite_option,
    quiet_option,
    seed_option,
    workers_option,
)
from crysmetrics.cli.sections import Option
from crysmetrics.cli.stability import potentials_option

if TYPE_CHECKING:
    from crysgen.settings import Resources, SamplingSettings

DEFAULT_COUNT = 16
"""Samples of each composition."""


class Formats(click.ParamType):
    """Names of formats, separated by commas."""

    name = "formats"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split the names; click hands over a default that is a tuple already."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip().lower() for name in str(value).split(","))
        unknown = [name for name in names if name not in FILE_FORMATS]
        if unknown:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(FILE_FORMATS)}.", param, ctx)
        return tuple(dict.fromkeys(names))


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
    sites: str | None
    cell: str | None
    formats: tuple[str, ...]
    pictures: bool
    exclude: str | None
    exclude_file: Path | None
    tolerance: float
    energies: bool
    relax: str | None
    polymorphs: bool
    potentials: str
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

    @property
    def draws_groups(self) -> bool:
        """Whether each sample of a model gets a likely space group."""
        return (self.space_group or "").lower() == "auto"

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
            relax=self.relax is not None,
            unsure_only=self.relax == "auto",
            potentials=tuple(listed(self.potentials, "--potential")),
            dispersion=self.dispersion,
            symmetrize=self.symmetrize,
            tolerance=self.tolerance,
            space_group=None if self.draws_groups else space_group_number(self.space_group),
            draw_space_groups=self.draws_groups,
            sites=() if self.sites is None else parse_sites(self.sites),
            exclude=excluded_ids(self.exclude, self.exclude_file),
            cell=self.cell,
            formats=self.formats,
            pictures=self.pictures,
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
        help="Generate crystals of this formula, such as Li2O, Ca(OH)2 or CuSO4·5H2O; repeatable.",
    ),
    click.option(
        "--compositions",
        metavar="FILE|FOLDER",
        help="Read formulas from a text, one a line; or structures, of which cells with exactly "
        "the same atoms are generated.",
    ),
    id_column_option,
    cif_column_option,
    click.option(
        "--system", metavar="A-B-C", help="Take all compositions of a system such as Li-Fe-O."
    ),
    click.option(
        "--subsystems",
        is_flag=True,
        help="Take compositions of some of the elements of --system, too.",
    ),
    click.option(
        "--max-compositions",
        type=click.IntRange(min=1),
        metavar="N",
        help="Take only the N most plausible compositions of --system "
        "(charge-neutral and of a common type first).",
    ),
    click.option(
        "-n",
        "--num-samples",
        "count",
        type=click.IntRange(min=1),
        metavar="N",
        help="Make N structures of each composition, over all its cell sizes; or N in all, "
        f"where the model chooses compositions.  [default: {DEFAULT_COUNT}]",
    ),
    click.option(
        "--formula-units",
        default="auto",
        show_default=True,
        metavar="auto|1,2,4",
        help="Put this many formula units into a cell; auto takes as many as real compounds of the "
        "type have.",
    ),
    click.option(
        "--max-atoms",
        type=click.IntRange(min=1),
        metavar="N",
        help="Make cells of at most N atoms.  [default: 20, or one formula unit where that "
        "is more; 64 for known prototypes; no limit for known structures of the formula]",
    ),
    click.option(
        "--num-atoms",
        type=click.IntRange(min=1),
        metavar="N",
        help="Make cells of exactly N atoms, where the model chooses the composition.",
    ),
)
"""Options that say which compositions and cells."""

SOURCES: tuple[Option, ...] = (
    click.option(
        "--method",
        type=click.Choice(list(METHODS)),
        default="auto",
        show_default=True,
        help="Take candidates from known structures (retrieval), from noise (diffusion), from "
        "proposals that are noised and denoised (refine), from likely space groups and Wyckoff "
        "positions whose coordinates a model finds (wyckoff), or from the first three (auto).",
    ),
    click.option(
        "--library",
        type=click.Choice(LIBRARIES),
        default="known",
        show_default=True,
        help="Start from all known structures, or from those that benchmarks may see.",
    ),
    click.option(
        "--exclude", metavar="ID,...", help="Do not use the known structures of these ids."
    ),
    click.option(
        "--exclude-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Do not use the known structures whose ids stand in a file, one a line.",
    ),
    model_option,
    click.option(
        "--steps",
        type=click.IntRange(1, MOST_STEPS),
        metavar="N",
        help="Take N steps of the reverse diffusion; the model's own number by default. They may "
        "be more than it was trained with.",
    ),
)
"""Options that say where candidates come from."""

SYMMETRY: tuple[Option, ...] = (
    click.option(
        "--space-group",
        metavar="SG|auto",
        help="Give only crystals that obey this space group: a number, or a symbol such as Fm-3m. "
        "Samples of models obey it exactly, also with refine. Known structures have it, or a "
        "subgroup and are moved onto it, or more symmetry (last). With auto, a sample of a model "
        "gets a space group that is likely for its atoms, and a refined structure keeps that of "
        "its prototype.",
    ),
    click.option(
        "--sites",
        metavar="EL:N,...",
        help="Ask for numbers of non-equivalent sites instead of a composition, such as Li:2,O:3; "
        "the Wyckoff positions of each sample then decide how many atoms these are.",
    ),
    click.option(
        "--symmetrize/--no-symmetrize",
        default=None,
        help="Write conventional cells of the space groups found, or leave samples of models as "
        "they come out. By default samples are made exactly symmetric in the cells they have.",
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(min=0, min_open=True),
        default=0.1,
        show_default=True,
        metavar="Å",
        help="Find symmetry within this distance.",
    ),
)
"""Options that say which space groups are wanted."""

ENERGIES: tuple[Option, ...] = (
    click.option(
        "--energies/--no-energies",
        default=True,
        show_default=True,
        help="Predict formation energies by ALIGNN, and rank samples from noise by them.",
    ),
    click.option(
        "--relax",
        is_flag=False,
        flag_value="all",
        type=click.Choice(["all", "auto"]),
        help="Relax the likeliest structures, and rank them by energy too; with auto, only for "
        "formulas whose first candidate has a probability below 0.9.",
    ),
    potentials_option,
    click.option(
        "--dispersion/--no-dispersion",
        default=True,
        show_default=True,
        help="Add D3 dispersion when relaxing (none for Li, Na and crystals of metals).",
    ),
    click.option(
        "--polymorphs",
        is_flag=True,
        help="Print the distinct structures of each formula by energy, as a phase table.",
    ),
)
"""Options that say which energies are computed."""

OUTPUT: tuple[Option, ...] = (
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Write here; by default into a new folder named after formula and seed.",
    ),
    click.option(
        "--format",
        "formats",
        type=Formats(),
        default="cif",
        show_default=True,
        metavar="cif,poscar,extxyz",
        help="Write each structure in these formats; samples.csv names the first of them.",
    ),
    click.option(
        "--cell",
        type=click.Choice(CELLS),
        help="Write standard cells of the space groups found; by default cells stay as they are.",
    ),
    click.option("--pictures", is_flag=True, help="Draw each structure as an SVG beside it."),
    json_option,
    quiet_option,
    overwrite_option,
)
"""Options that say what is written, and how."""

RESOURCES: tuple[Option, ...] = (
    seed_option,
    batch_size_option,
    device_option,
    workers_option,
    cache_option,
)
"""Options that other commands have too."""

SECTIONS: Mapping[str, Sequence[Option]] = {
    "Compositions and cells": COMPOSITIONS,
    "Where candidates come from": SOURCES,
    "Symmetry": SYMMETRY,
    "Energies": ENERGIES,
    "Output": OUTPUT,
    "Seed and resources": RESOURCES,
}
"""All options, in the sections of the help."""
