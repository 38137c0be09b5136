"""Commands on structures themselves: convert."""

from __future__ import annotations

from typing import Any

import click

from crysmetrics.cli.options import (
    Finite,
    cif_column_option,
    id_column_option,
    overwrite_option,
    progress,
    quiet_option,
    user_errors,
    workers_option,
)
from crysmetrics.console import echo


class _FormatName(click.ParamType):
    """The name of a format that can be written; the table of them is read when it is needed."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: Any = None) -> str:
        """Names of the formats."""
        from crysmetrics.io.formats import written_formats

        return f"[{'|'.join(written_formats())}]"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The name, in lower case."""
        from crysmetrics.io.formats import written_formats

        if str(value).lower() not in (written := written_formats()):
            self.fail(f"{value!r} is not one of {', '.join(written)}.", param, ctx)
        return str(value).lower()


class _WithFormats(click.Command):
    """A command whose help ends with the formats that are read and written."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each format."""
        from crysmetrics.io.formats import FORMATS, written_formats

        rows = [
            (
                f"{', '.join(found.suffixes)}",
                f"{found.title}, {found.note}"
                + ("" if found.name in written_formats() else "; read only"),
            )
            for found in FORMATS.values()
        ]
        with formatter.section("Formats"):
            formatter.write_dl(rows)


@click.command(cls=_WithFormats)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--format",
    "format_name",
    type=_FormatName(),
    help="Write a folder or .zip of files in this format; CIF by default.",
)
@click.option("--symmetrize", is_flag=True, help="Write CIFs in the space group found, not P1.")
@click.option(
    "--tolerance",
    type=Finite(min=0, min_open=True),
    default=0.01,
    show_default=True,
    metavar="Å",
    help="Find symmetry within this distance.",
)
@id_column_option
@cif_column_option
@workers_option
@quiet_option
@overwrite_option
@user_errors
def convert(
    source: str,
    target: str,
    format_name: str | None,
    symmetrize: bool,
    tolerance: float,
    id_column: str | None,
    cif_column: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Read structures and write them in another format.

    The name of OUT decides the format if it is POSCAR or ends in a suffix that is listed below.
    With any other name, OUT is a folder with one file for each structure; with .zip, an archive of
    such files. Structures that can't be read are listed on standard error; only .npz keeps the
    list.
    """
    from pathlib import Path

    from crysmetrics.cli.options import check_outputs
    from crysmetrics.io import read, write
    from crysmetrics.io.writing import refuse_inside, target_format

    target_format(Path(target), format_name)
    refuse_inside(source, target, format_name)
    check_outputs(overwrite, target)
    with progress(quiet):
        crystals = read(source, id_column=id_column, cif_column=cif_column, workers=workers)
        write(
            crystals,
            target,
            format=format_name,
            symmetrize=symmetrize,
            tolerance=tolerance,
            overwrite=overwrite,
        )
    for failure in crystals.failures:
        echo(f"not converted: {failure.file}: {failure.reason}", err=True)
    if not quiet:
        echo(f"{len(crystals):,} structures written to {target}.")
