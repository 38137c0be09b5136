"""Options that mean the same in every command, and how errors and results are shown."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysmetrics.cli.program import errors_explained
from crysmetrics.console import shown
from crysmetrics.errors import UserError
from crysmetrics.metrics.settings import ROLE_TITLES

if TYPE_CHECKING:
    from rich.console import Console

    from crysmetrics.reporting.report import Report

Command = Callable[..., Any]

SHOWN_FAILURES = 20
"""Failures listed on a terminal; the JSON has all."""

gen_argument = click.argument("gen", metavar="GEN")
ref_argument = click.argument("ref", metavar="REF")
train_argument = click.argument("train", metavar="TRAIN")

json_option = click.option(
    "--json",
    "json_path",
    metavar="FILE",
    help="Write results as JSON; - for standard output.",
)
per_structure_option = click.option(
    "--per-structure",
    "per_structure_path",
    metavar="FILE.csv",
    help="Write a table with one row for each generated structure.",
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Use N cores; all by default."
)
SEED = click.IntRange(0, 2**64 - 1)
"""Seeds that NumPy and PyTorch take alike."""
id_column_option = click.option(
    "--id-column",
    metavar="NAME",
    help="Read ids of a table or JSON from this column; material_id, id, ... by default.",
)
cif_column_option = click.option(
    "--cif-column",
    metavar="NAME",
    help="Read CIFs, or JSON of pymatgen, from this column; cif, structure, ... by default.",
)
seed_option = click.option(
    "--seed", type=SEED, default=0, show_default=True, metavar="N", help="Seed random draws."
)
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress and no table.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Run networks on this device: auto, cpu or cuda.",
)
cache_option = click.option(
    "--cache",
    metavar="DIR|off",
    help="Keep features between runs here; in the user's cache folder by default.",
)

energies_option = click.option(
    "--energies",
    metavar="FILE.csv",
    help="Read energies above the hull: columns id or file, and e_above_hull in eV/atom; "
    "by default GEN's own column or property e_above_hull.",
)


class Finite(click.FloatRange):
    """Numbers within bounds, without NaN and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def listed(text: str, option: str) -> list[str]:
    """Split a comma-separated list into names, each once.

    Raises:
        UserError: if there is none, or one of them is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{option} takes names separated by commas; not {text!r}.")
    return list(dict.fromkeys(names))


def user_errors(command: Command) -> Command:
    """Turn what users can mend into one sentence and exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        show_log(quiet=bool(kwargs.get("quiet")))
        with errors_explained():
            return command(*args, **kwargs)

    return wrapped


def show_log(quiet: bool) -> None:
    """Write what both packages log to standard error: all of it, or warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Shown("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if quiet:
        for package in ("crysmetrics", "crysgen"):
            logging.getLogger(package).setLevel(logging.WARNING)


class _Shown(logging.Formatter):
    """Messages on one line each, harmless to terminals."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))


@contextmanager
def progress(quiet: bool) -> Iterator[None]:
    """Show progress bars on a terminal, unless quiet."""
    if quiet:
        yield
        return
    from crysmetrics.progress import show_progress

    with show_progress():
        yield


def check_outputs(overwrite: bool, *paths: str | None) -> None:
    """Refuse existing outputs before any work is done."""
    from crysmetrics.io.atomic import refuse_existing

    for path in paths:
        if path is not None and path != "-":
            refuse_existing(path, overwrite)


def refuse_other_ending(path: str | Path, ending: str, content: str) -> None:
    """Refuse an output whose name would say that it is of another format.

    Args:
        path: of the output.
        ending: that it must have, such as `.npz`.
        content: what is written, for the message.

    Raises:
        UserError: if it ends otherwise.
    """
    if not str(path).lower().endswith(ending):
        raise UserError(f"{content} are written as {ending}; {path} does not end so.")


FAILURE_NOTES = {
    "gen": "failed; they count as failures in validity and coverage, and are left out of EMDs and "
    "Fréchet distances",
    "ref": "failed; they are left out",
    "train": "failed; they are left out",
}
"""What happened to structures that failed, and where they count, for people."""


def show(
    report: Report,
    *,
    json_path: str | None,
    quiet: bool,
    per_structure_path: str | None = None,
    notes: Mapping[str, str] = FAILURE_NOTES,
) -> None:
    """Write the files asked for, then the table and the failures for people."""
    from crysmetrics.console import console

    if per_structure_path is not None:
        save_table(report.per_structure["gen"], per_structure_path)
    if json_path is not None:
        report.save_json(json_path)
    if quiet:
        return
    screen = console(stderr=json_path == "-")
    screen.print(report.table())
    remarks: dict[str, list[str]] = {}
    for key, value in report.metrics.items():
        if remark := value.reason or value.note:
            remarks.setdefault(remark, []).append(key)
    for remark, keys in remarks.items():
        screen.print(f"{', '.join(keys)}: {remark}")
    show_failures(report, screen, notes)


def save_table(table: Any, path: str | Path) -> None:
    """Write a pandas table as CSV, whole or not at all."""
    from crysmetrics.io.atomic import atomic_file
    from crysmetrics.io.csv_files import write_csv

    with atomic_file(path) as temporary:
        write_csv(table, temporary)


def show_failures(
    report: Report, screen: Console, notes: Mapping[str, str] = FAILURE_NOTES
) -> None:
    """Name what failed, and where it counts."""
    for role, found in report.inputs.items():
        failed = [f for f in report.failures if f["input"] == role]
        if not failed:
            continue
        total = found["read"] + found["failed"]
        title = ROLE_TITLES[role]
        screen.print()
        screen.print(f"{len(failed)} of {total:,} {title} structures {notes[role]}:")
        for failure in failed[:SHOWN_FAILURES]:
            screen.print(f"  {failure['file']}: {failure['reason']}")
        if len(failed) > SHOWN_FAILURES:
            screen.print(f"  ... and {len(failed) - SHOWN_FAILURES} more; --json lists all")
