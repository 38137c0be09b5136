"""`crysmetrics demo`: the main job on embedded example data."""

from __future__ import annotations

from pathlib import Path

import click

from crysmetrics.cli.options import overwrite_option, progress, quiet_option, show, user_errors
from crysmetrics.console import echo


@click.command()
@click.option(
    "-o",
    "--output",
    default="crysmetrics-demo",
    show_default=True,
    metavar="FOLDER",
    help="Write the example structures and the results here.",
)
@quiet_option
@overwrite_option
@user_errors
def demo(output: str, quiet: bool, overwrite: bool) -> None:
    """Evaluate example structures, and show where the results are."""
    from crysmetrics import examples
    from crysmetrics.errors import UserError
    from crysmetrics.evaluation import evaluate
    from crysmetrics.io.atomic import atomic_folder, refuse_existing
    from crysmetrics.reporting.writing import write_results

    folder = Path(output)
    refuse_existing(folder, overwrite)
    if folder.exists() and not _is_ours(folder):
        raise UserError(f"{folder} holds other things than a demo; not replaced.")
    with atomic_folder(folder) as temporary:
        gen, ref = examples.unpack(temporary)
        with progress(quiet):
            report = evaluate(gen, ref)
        report = report.with_paths(gen=str(folder / gen.name), ref=str(folder / ref.name))
        write_results(report, temporary, gen.name)
    show(report, json_path=None, quiet=quiet)
    echo()
    echo(f"Structures and results are in {folder}; open {folder / 'report.html'}.")


def _is_ours(folder: Path) -> bool:
    from crysmetrics.io.atomic import remove_left

    remove_left(folder)
    names = {child.name for child in folder.iterdir()}
    return not names or {"generated", "reference", "metrics.json"} <= names
