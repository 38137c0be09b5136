"""`crysgen library`: known structures that proposals start from."""

from __future__ import annotations

import click

from crysmetrics.cli.options import (
    cif_column_option,
    id_column_option,
    progress,
    quiet_option,
    user_errors,
)
from crysmetrics.console import echo


@click.group(name="library")
def library() -> None:
    """Show the known structures that candidates are made from, or add your own."""


@library.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@id_column_option
@cif_column_option
@quiet_option
@user_errors
def add(paths: tuple[str, ...], id_column: str | None, cif_column: str | None, quiet: bool) -> None:
    """Add crystals of your own, from folders or files of any kind that crysmetrics reads.

    They are kept in a file of yours (`crysgen library info` says where), and every later
    `crysgen sample` uses them beside the shipped library. A crystal with the id of an earlier one
    replaces it.
    """
    from crysgen.retrieval.library.user import add_to_user_library, user_library

    with progress(quiet):
        added, total, failures = add_to_user_library(
            paths, id_column=id_column, cif_column=cif_column
        )
    for failure in failures:
        echo(f"  {failure.file}: {failure.reason}", err=True)
    if not quiet:
        echo(f"{added} crystal(s) added, {total} in {user_library()}")


@library.command()
@user_errors
def info() -> None:
    """Say what the shipped library and your own hold, and where the files are."""
    from crysgen.retrieval.library.entries import load_entries
    from crysgen.retrieval.library.library import shipped_library
    from crysgen.retrieval.library.user import describe, user_library

    own = user_library()
    for path in (shipped_library(), *([own] if own.is_file() else [])):
        entries = load_entries(path, everything=True)
        echo(f"{path}: {len(entries)} crystals")
        for name, count in describe(entries).items():
            echo(f"  {name}: {count}")
        if path != own:
            echo(f"  of these for --library benchmark: {entries.num_benchmark}")
    if not own.is_file():
        echo(f"{own}: none yet; `crysgen library add PATH` makes it")
