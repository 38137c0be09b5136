"""`crysgen sample`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysgen.cli.sample_options import DEFAULT_COUNT, SECTIONS, SampleCall
from crysgen.columns import COLUMNS
from crysmetrics.cli.options import check_outputs, progress, user_errors
from crysmetrics.cli.sections import SectionedCommand, with_options
from crysmetrics.console import echo
from crysmetrics.interrupts import advice

if TYPE_CHECKING:
    from crysgen.requests import CompositionRequest
    from crysgen.samples import Result


FREE_NAME = "crystals"
"""Beginning of the name of a folder where the model chooses compositions."""


@click.command(
    cls=SectionedCommand, sections=SECTIONS, lists={"Columns of samples.csv": [*COLUMNS.items()]}
)
@partial(with_options, sections=SECTIONS)
@user_errors
def sample(**given: Any) -> None:
    """Generate crystals of exact compositions, or of a model's choice.

    Without a composition, --model must be named: it chooses compositions itself, or they are drawn
    for it, as those of known crystals with elements exchanged for similar ones. The folder holds
    a CIF for each structure, the likeliest first, the table samples.csv, candidates.html with
    pictures, energies and reasons, and request.json. A run that was interrupted goes on when the
    same command is given again.
    """
    from crysgen.cli.sample_report import show
    from crysgen.run_state import refuse_taken

    call = SampleCall(**given)
    check_outputs(call.overwrite, call.json_path)
    if call.output is not None:
        refuse_taken(call.output, call.overwrite)
    call = _grouped(call)
    requests = _fitted(call, _requests(call))
    _announce(call, requests)
    with advice("the same command goes on where it stopped"):
        path, document, result = _run(call, requests)
    show(call, path, document, result, requests)


def _grouped(call: SampleCall) -> SampleCall:
    """Let a model that must be told space groups draw likely ones, with compositions drawn too."""
    from crysgen.checkpoints import kind_of
    from crysgen.models import model_class

    told = call.space_group is not None or call.sites is not None
    if told or not call.is_free or call.model is None:
        return call
    if "space_group" not in model_class(kind_of(call.model)).requires:
        return call
    return replace(call, space_group="auto")


def _requests(call: SampleCall) -> list[CompositionRequest]:
    """Collect the compositions, however they were given."""
    from crysgen.compositions.formula_units import parse_formula_units
    from crysgen.compositions.formulas import parse_formula
    from crysgen.requests import ask_formulas, ask_path
    from crysmetrics.errors import UserError

    ways = [call.composition, call.compositions is not None, call.system is not None]
    one_group = call.space_group is not None and not call.draws_groups
    if call.sites is not None and not (call.is_free and one_group):
        raise UserError("--sites goes with one --space-group, and in place of a composition.")
    if call.is_free and (call.model is not None or call.sites is not None):
        return _free(call)
    if sum(map(bool, ways)) != 1:
        raise UserError(
            "Give one of --composition, --compositions and --system, or name a --model for "
            "compositions of its choice."
        )
    if call.num_atoms is not None:
        raise UserError("--num-atoms goes with no composition: --max-atoms limits cells of one.")
    if call.system is None and (call.subsystems or call.max_compositions):
        raise UserError("--subsystems and --max-compositions go with --system.")
    units = parse_formula_units(call.formula_units)
    count = call.count or DEFAULT_COUNT
    if call.system is not None:
        return _of_system(call, units)
    if call.compositions is not None:
        with progress(call.quiet):
            columns = (call.id_column, call.cif_column)
            return ask_path(call.compositions, count, units, call.max_atoms, *columns)
    formulas = [parse_formula(text) for text in call.composition]
    return ask_formulas(formulas, count, units, call.max_atoms)


def _fitted(call: SampleCall, requests: list[CompositionRequest]) -> list[CompositionRequest]:
    """Request samples of a model in cells alone that the space group has places for."""
    number = call.settings().space_group
    if number is None or call.method in ("retrieval", "refine"):
        return requests
    from crysgen.wyckoff.sizes import fit_sizes
    from crysmetrics.errors import UserError

    fitted = []
    for request in requests:
        try:
            fitted.append(fit_sizes(request, number, call.max_atoms))
        except UserError:
            if call.method != "auto":
                raise
            fitted.append(request)  # the library may hold a structure in a larger cell
    return fitted


def _free(call: SampleCall) -> list[CompositionRequest]:
    """Request crystals of compositions that the model chooses, or that are drawn for it."""
    from crysgen.checkpoints import kind_of
    from crysgen.models import model_class
    from crysgen.requests import ask_free
    from crysmetrics.errors import UserError

    if call.method not in ("auto", "diffusion"):
        raise UserError(f"--method {call.method} needs compositions: give --composition, say.")
    if call.formula_units != "auto" or call.subsystems or call.max_compositions:
        raise UserError(
            "--formula-units, --subsystems and --max-compositions go with compositions."
        )
    if call.relax:
        raise UserError(
            "Only structures of one composition are ranked after relaxation; `crysmetrics relax` "
            "relaxes those of a model's choice."
        )
    count = call.count or DEFAULT_COUNT
    model = model_class(kind_of(call.model))
    # Wyckoff positions are those of atoms.
    needs_atoms = "atomic_numbers" in model.requires or (
        call.space_group is not None and {"atomic_numbers", "space_group"} <= model.accepts
    )
    if call.sites or not needs_atoms:
        return ask_free(count, call.num_atoms)
    from crysgen.compositions.distribution import draw_compositions
    from crysgen.compositions.formula_units import MAX_ATOMS
    from crysgen.requests import ask_cells
    from crysgen.retrieval.library.library import Library

    # Of crystals that models may have been trained on, whatever --library says.
    drawn = draw_compositions(
        Library.load(),
        count,
        call.seed,
        call.max_atoms or MAX_ATOMS,
        call.num_atoms,
        space_group=call.settings().space_group,
    )
    if not call.quiet:
        echo(drawn.summary(), err=True)
    return ask_cells(drawn.atoms)


def _of_system(call: SampleCall, units: tuple[int, ...] | None) -> list[CompositionRequest]:
    """Collect the compositions of a chemical system."""
    from crysgen.compositions.formula_units import MAX_ATOMS
    from crysgen.compositions.formulas import parse_system
    from crysgen.compositions.systems import compositions
    from crysgen.requests import ask_formulas
    from crysmetrics.errors import UserError

    smallest, most = max(units or (1,)), call.max_atoms or MAX_ATOMS
    formulas = compositions(parse_system(call.system or ""), most // smallest, call.subsystems)
    formulas = formulas[: call.max_compositions]
    if call.count is None:
        raise UserError(
            f"--system {call.system} makes {len(formulas):,} compositions of up to "
            f"{most} atoms; say with -n how many structures of each are wanted."
        )
    return ask_formulas(formulas, call.count, units, most)


def _announce(call: SampleCall, requests: list[CompositionRequest]) -> None:
    """Say what will be made, before it takes its time."""
    from crysgen.compositions.formula_units import MAX_ATOMS

    largest = max(
        units * (request.num_atoms or request.formula.num_atoms)
        for request in requests
        for units, _ in request.sizes
    )
    if largest > MAX_ATOMS:
        echo(
            f"Warning: cells of up to {largest} atoms; models trained on at most {MAX_ATOMS} "
            "may do poorly there.",
            err=True,
        )
    if call.quiet:
        return
    total = sum(request.count for request in requests)
    if len(requests) > 1:
        text = f"{len(requests):,} compositions, {total:,} structures."
    elif requests[0].is_free:
        text = f"{total:,} structures of compositions that the model chooses."
    else:
        request = requests[0]
        parts = [f"{n} of {units * request.formula.num_atoms} atoms" for units, n in request.sizes]
        text = f"{request.formula}: {total:,} structures ({', '.join(parts)})."
    echo(f"{call.system}: {text}" if call.system else text, err=True)


def _run(
    call: SampleCall, requests: list[CompositionRequest]
) -> tuple[Path, dict[str, Any], Result]:
    """Make everything; returns the folder, the document of the run, and what was made."""
    from crysgen.cli.first_run import interpret_small_work
    from crysgen.generation import pieces_done, run
    from crysgen.output import open_run
    from crysgen.proposers.base import build_methods
    from crysgen.requests import UNKNOWN_SIZE, request_record
    from crysgen.run_state import check_folder, free_folder

    atoms = sum(
        n * units * (request.num_atoms or request.formula.num_atoms or UNKNOWN_SIZE)
        for request in requests
        for units, n in request.sizes
    )
    interpret_small_work(atoms)
    settings, resources = call.settings(), call.resources()
    methods = build_methods(requests, settings, resources)
    record = {
        "source": {
            "composition": list(call.composition),
            "compositions": call.compositions,
            "system": call.system,
            "model": call.model,
        },
        "request": request_record(requests, methods, settings),
    }
    path = call.output or free_folder(_default_name(call, requests), record)
    check_folder(path, record, call.overwrite)
    for method in methods:
        method.prepare()
    with open_run(path, record, call.overwrite) as (folder, continued):
        if continued and folder.done and not call.quiet:
            done, total = pieces_done(methods, folder)
            echo(f"Going on in {path}: {done:,} of {total:,} are done.", err=True)
        with progress(call.quiet):
            result = run(requests, methods, settings, resources, folder)
    return path, record, result


def _default_name(call: SampleCall, requests: list[CompositionRequest]) -> str:
    """Name a new folder after the compositions and the seed."""
    if call.system is not None:
        base = call.system.replace(" ", "")
    elif call.compositions is not None:
        base = Path(call.compositions).resolve().name.split(".")[0]
    else:
        base = "-".join(request.formula.text or FREE_NAME for request in requests[:3])
        if len(requests) > 3:
            base += f"-and-{len(requests) - 3}-more"
    return f"{base}-seed{call.seed}"
