"""`crysgen sample`."""

from __future__ import annotations

import json
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
from crysgen.methods import METHODS
from crysmetrics.cli.options import (
    cache_option,
    check_outputs,
    device_option,
    json_option,
    overwrite_option,
    progress,
    quiet_option,
    seed_option,
    user_errors,
    workers_option,
)
from crysmetrics.console import echo
from crysmetrics.interrupts import advice

if TYPE_CHECKING:
    from crysgen.generation import Result
    from crysgen.requests import Asked
    from crysgen.settings import Machine, Settings

DEFAULT_COUNT = 16
_SHOWN = 16


@dataclass(frozen=True)
class _Call:
    """What was asked on the command line; see the options for what each means."""

    composition: tuple[str, ...]
    compositions: str | None
    system: str | None
    subsystems: bool
    max_compositions: int | None
    count: int | None
    formula_units: str
    max_atoms: int
    output: Path | None
    method: str
    model: str | None
    steps: int | None
    symmetrize: bool
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

    def settings(self) -> Settings:
        """What decides the result."""
        from crysgen.settings import Settings

        return Settings(
            method=self.method,
            model=self.model,
            steps=self.steps,
            seed=self.seed,
            max_atoms=self.max_atoms,
            energies=self.energies,
            relax=self.relax,
            dispersion=self.dispersion,
            symmetrize=self.symmetrize,
            tolerance=self.tolerance,
            space_group=space_group_number(self.space_group),
            exclude=excluded_ids(self.exclude, self.exclude_file),
        )

    def machine(self) -> Machine:
        """What decides how fast."""
        from crysgen.settings import Machine

        return Machine(self.device, self.workers, self.batch_size, self.cache)


@click.command()
@click.option(
    "--composition",
    multiple=True,
    metavar="FORMULA",
    help="Such as Li2O, Ca(OH)2 or CuSO4·5H2O; repeatable.",
)
@click.option(
    "--compositions",
    metavar="FILE|FOLDER",
    help="A text with one formula a line, or structures whose cell compositions are wanted.",
)
@click.option("--system", metavar="A-B-C", help="All compositions of a system such as Li-Fe-O.")
@click.option("--subsystems", is_flag=True, help="With --system: those of fewer elements too.")
@click.option(
    "--max-compositions",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --system: only the N most plausible (charge-neutral and of a common type first).",
)
@click.option(
    "-n",
    "--num-samples",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Structures of each composition, over all its cell sizes.  [default: {DEFAULT_COUNT}]",
)
@click.option(
    "--formula-units",
    default="auto",
    show_default=True,
    metavar="auto|1,2,4",
    help="Formulas in a cell; auto: as real compounds of that type have it.",
)
@click.option(
    "--max-atoms",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Of a cell. Models may have seen none larger than 20.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="By default a new one named after formula and seed.",
)
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="auto",
    show_default=True,
    help="Where candidates come from.",
)
@model_option
@click.option("--steps", type=click.IntRange(min=1), help="Of the diffusion; all by default.")
@click.option("--symmetrize", is_flag=True, help="CIFs in the space group found, not P1.")
@click.option(
    "--space-group",
    metavar="SG",
    help="Only crystals of this space group, symmetrised: a number, or a symbol such as Fm-3m.",
)
@click.option("--exclude", metavar="ID,...", help="Known structures that must not be proposed.")
@click.option(
    "--exclude-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The same, one id a line.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Å within which symmetry is found.",
)
@click.option(
    "--energies/--no-energies",
    default=True,
    show_default=True,
    help="Predict formation energies by ALIGNN, and rank samples from noise by them.",
)
@click.option(
    "--relax",
    is_flag=True,
    help="Relax the likeliest structures with CHGNet, and rank them by its energies too.",
)
@click.option(
    "--dispersion/--no-dispersion",
    default=True,
    show_default=True,
    help="Add D3 dispersion when relaxing, unless all elements are metals.",
)
@batch_size_option
@seed_option
@device_option
@workers_option
@cache_option
@json_option
@quiet_option
@overwrite_option
@user_errors
def sample(**given: Any) -> None:
    """Generate crystals of exact compositions.

    Writes CIFs, samples.csv and request.json. A run that was interrupted goes on when the same
    command is given again.
    """
    from crysgen.output import refuse_taken

    call = _Call(**given)
    check_outputs(call.overwrite, call.json_path)
    if call.output is not None:
        refuse_taken(call.output, call.overwrite)
    asked = _asked(call)
    _announce(call, asked)
    with advice("the same command goes on where it stopped"):
        path, document, result = _run(call, asked)
    _show(call, path, document, result, asked)


def _asked(call: _Call) -> list[Asked]:
    """The compositions, however they were given."""
    from crysgen.compositions.formula_units import parse_formula_units
    from crysgen.compositions.formulas import parse_formula
    from crysgen.requests import ask_formulas, ask_path
    from crysmetrics.errors import UserError

    ways = [call.composition, call.compositions is not None, call.system is not None]
    if sum(map(bool, ways)) != 1:
        raise UserError("Give one of --composition, --compositions and --system.")
    if call.system is None and (call.subsystems or call.max_compositions):
        raise UserError("--subsystems and --max-compositions go with --system.")
    units = parse_formula_units(call.formula_units)
    count = call.count or DEFAULT_COUNT
    if call.system is not None:
        return _of_system(call, units)
    if call.compositions is not None:
        with progress(call.quiet):
            return ask_path(call.compositions, count, units, call.max_atoms)
    formulas = [parse_formula(text) for text in call.composition]
    return ask_formulas(formulas, count, units, call.max_atoms)


def _of_system(call: _Call, units: tuple[int, ...] | None) -> list[Asked]:
    from crysgen.compositions.formulas import parse_system
    from crysgen.compositions.systems import compositions
    from crysgen.requests import ask_formulas
    from crysmetrics.errors import UserError

    smallest = max(units or (1,))
    formulas = compositions(
        parse_system(call.system or ""), call.max_atoms // smallest, call.subsystems
    )
    formulas = formulas[: call.max_compositions]
    if call.count is None:
        raise UserError(
            f"--system {call.system} makes {len(formulas):,} compositions of up to "
            f"{call.max_atoms} atoms; say with -n how many structures of each are wanted."
        )
    return ask_formulas(formulas, call.count, units, call.max_atoms)


def _announce(call: _Call, asked: list[Asked]) -> None:
    """Say what will be made, before it takes its time."""
    from crysgen.compositions.formula_units import MAX_ATOMS

    largest = max(units * one.formula.num_atoms for one in asked for units, _ in one.sizes)
    if largest > MAX_ATOMS:
        echo(
            f"Warning: cells of up to {largest} atoms; models trained on at most {MAX_ATOMS} "
            "may do poorly there.",
            err=True,
        )
    if call.quiet:
        return
    total = sum(one.count for one in asked)
    if len(asked) > 1:
        text = f"{len(asked):,} compositions, {total:,} structures."
    else:
        one = asked[0]
        parts = [f"{n} of {units * one.formula.num_atoms} atoms" for units, n in one.sizes]
        text = f"{one.formula}: {total:,} structures ({', '.join(parts)})."
    echo(f"{call.system}: {text}" if call.system else text, err=True)


def _run(call: _Call, asked: list[Asked]) -> tuple[Path, dict[str, Any], Result]:
    """Make everything; returns the folder, the document of the run, and what was made."""
    from crysgen.cli.first_run import interpret_small_work
    from crysgen.generation import pieces_done, run
    from crysgen.methods import build_methods
    from crysgen.output import check_folder, free_folder, open_run
    from crysgen.requests import request_record

    atoms = sum(n * units * one.formula.num_atoms for one in asked for units, n in one.sizes)
    interpret_small_work(atoms)
    settings, machine = call.settings(), call.machine()
    methods = build_methods(asked, settings, machine)
    record = {
        "source": {
            "composition": list(call.composition),
            "compositions": call.compositions,
            "system": call.system,
            "model": call.model,
        },
        "request": request_record(asked, methods, settings),
    }
    path = call.output or free_folder(_default_name(call, asked), record)
    check_folder(path, record, call.overwrite)
    for method in methods:
        method.prepare()
    with open_run(path, record, call.overwrite) as (folder, continued):
        if continued and folder.done and not call.quiet:
            done, total = pieces_done(methods, folder)
            echo(f"Going on in {path}: {done:,} of {total:,} are done.", err=True)
        with progress(call.quiet):
            result = run(asked, methods, settings, machine, folder)
    return path, record, result


def _default_name(call: _Call, asked: list[Asked]) -> str:
    if call.system is not None:
        base = call.system.replace(" ", "")
    elif call.compositions is not None:
        base = Path(call.compositions).resolve().name.split(".")[0]
    else:
        base = "-".join(one.formula.text for one in asked[:3])
        if len(asked) > 3:
            base += f"-and-{len(asked) - 3}-more"
    return f"{base}-seed{call.seed}"


def _show(
    call: _Call, path: Path, record: dict[str, Any], result: Result, asked: list[Asked]
) -> None:
    """The JSON, and for people a table of the first structures."""
    if call.json_path is not None:
        rows = json.loads(result.table.to_json(orient="records"))
        document = {
            "schema": "crysgen/1",
            **record,
            "output": str(path),
            "result": result.summary(),
            "samples": rows,
        }
        from crysmetrics.io.json_files import write_json

        write_json(document, call.json_path)
    if call.quiet:
        return
    from crysmetrics.console import console

    screen = console(stderr=call.json_path == "-")
    screen.print(_rich_table(result, asked))
    for failure in result.failures[:_SHOWN]:
        name = failure["ref_id"] or failure["formula"]
        screen.print(f"not made: one of {name}: {failure['reason']}")
    if len(result.failures) > _SHOWN:
        screen.print(f"... and {len(result.failures) - _SHOWN} more; {path}/request.json has all")
    again = f" ({result.redrawn} draws were no crystals and were repeated)" * bool(result.redrawn)
    total = sum(one.count for one in asked)
    fewer = total - len(result.crystals) - len(result.failures)
    equal = f" of {total:,} asked for, the others being equal to these," * (fewer > 0)
    screen.print(
        f"{len(result.crystals):,} structures{equal} in {path}{again}.",
        soft_wrap=True,
    )


def _rich_table(result: Result, asked: list[Asked]) -> Any:
    """The first structures: all of one composition, or the best of each."""
    from rich.table import Table

    from crysmetrics.symmetry import short_symbol

    rows = result.table if len(asked) == 1 else result.table[result.table["rank"] == 1]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("File")
    for title in ("Rank", "Atoms", "Space group", "g/cm³", "Min. Å", "eV/atom"):
        shown.add_column(title, justify="left" if title == "Space group" else "right")
    for row in rows.head(_SHOWN).to_dict("records"):
        energy = row["predicted_formation_energy_per_atom"]
        symbol = short_symbol(int(row["space_group"]))
        shown.add_row(
            row["file"],
            str(row["rank"]),
            str(row["num_atoms"]),
            f"{symbol} ({row['space_group']})",
            f"{row['density']:.3f}",
            f"{row['min_distance']:.3f}",
            "" if energy != energy else f"{energy:.3f}",
        )
    if len(rows) > _SHOWN:
        shown.caption = f"and {len(rows) - _SHOWN:,} more in samples.csv"
    return shown
