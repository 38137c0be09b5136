"""Commands on ALIGNN: fad, energy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysmetrics.cli.options import gen_argument, ref_argument, save_table
from crysmetrics.cli.request import NETWORK, Request, requested
from crysmetrics.console import echo

if TYPE_CHECKING:
    import pandas as pd

    from crysmetrics.features.extractor import Run


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--by-size",
    metavar="STEM",
    help="Write FAD against the number of structures as STEM.csv and STEM.png (GemsDiff, Fig. 4).",
)
@click.option(
    "--by-folder",
    metavar="STEM",
    help="Write the FAD of each folder in GEN as STEM.csv and STEM.png (GemsDiff, Fig. 3).",
)
@requested(run=NETWORK, settings=("seed",))
def fad(gen: str, ref: str, by_size: str | None, by_folder: str | None, request: Request) -> None:
    """Compute the Fréchet ALIGNN distance, its extrapolation, and a kernel distance.

    The number belongs to the weights: compare FADs only of equal extractors, which --json names
    by version and hash.
    """
    from crysmetrics.errors import UserError

    if by_size and by_folder:
        raise UserError("Give --by-size or --by-folder, not both.")
    figures = [f"{stem}{end}" for stem in (by_size, by_folder) if stem for end in (".csv", ".png")]
    request.check_outputs(*figures)
    if by_folder is not None:
        if request.json_path is not None:
            raise UserError("--by-folder writes a table of its own; --json goes with one GEN.")
        with request.progress():
            table = _folders(gen, ref, request.settings, request.run)
        _save(table, by_folder, "folder", "FAD")
        if not request.quiet:
            for line in table.to_string(index=False).splitlines():
                echo(line)
        return
    report = request.evaluate(["fad"], gen, ref)
    if by_size is not None:
        sizes = _sizes(report.samples["gen"], report.samples["ref"], request.settings)
        _save(sizes, by_size, "structures", "FAD")
    request.show(report)


def _sizes(gen: Any, ref: Any, settings: Any) -> pd.DataFrame:
    """FAD of random subsamples of GEN, by their size."""
    import pandas as pd

    from crysmetrics.metrics.alignn import features
    from crysmetrics.metrics.base import random_generator
    from crysmetrics.metrics.extrapolation import distances_by_size, sample_sizes
    from crysmetrics.metrics.gaussians import Statistics

    ours, theirs = features(gen), features(ref)
    rng = random_generator(settings, "fad_by_size")
    sizes, distances = distances_by_size(ours, Statistics.of(theirs), sample_sizes(len(ours)), rng)
    table = pd.DataFrame({"structures": sizes, "FAD": distances}).groupby("structures")
    return pd.DataFrame({"FAD": table.FAD.mean(), "stderr": table.FAD.std()}).reset_index()


def _folders(gen: str, ref: str, settings: Any, run: Run) -> pd.DataFrame:
    """FAD of every folder below GEN, in natural order of their names."""
    import pandas as pd

    from crysmetrics.errors import UserError
    from crysmetrics.evaluation import as_sample, evaluate_measures

    root = Path(gen)
    if not root.is_dir():
        raise UserError(f"{gen} is no folder of folders.")
    children = [p for p in root.iterdir() if not p.name.startswith(".")]
    if not children:
        raise UserError(f"{gen} is empty.")
    reference = as_sample(ref, "ref", run)
    rows = []
    for child in sorted(children, key=_natural):
        report = evaluate_measures(["fad"], str(child), reference, settings, run=run)
        value = report.metrics["fad"]
        failed = len([f for f in report.failures if f["input"] == "gen"])
        row = (child.name, value.value, value.stderr, value.n_gen, failed)
        rows.append(row)
    return pd.DataFrame(rows, columns=["folder", "FAD", "stderr", "n_gen", "failed"])


def _natural(path: Path) -> list[tuple[int, int | str]]:
    import re

    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _save(table: pd.DataFrame, stem: str, x: str, y: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from crysmetrics.io.atomic import atomic_file

    save_table(table, f"{stem}.csv")
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.errorbar(table[x], table[y], yerr=table["stderr"].astype(float), marker="o", capsize=3)
    ax.set(xlabel=x, ylabel=y)
    ax.set_ylim(bottom=0)
    with atomic_file(f"{stem}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "-o", "--output", metavar="FILE.csv", help="Write here; to standard output by default."
)
@requested(run=NETWORK, output=("quiet", "overwrite"))
def energy(source: str, output: str | None, request: Request) -> None:
    """Predict formation energies by ALIGNN, as CSV: id, formation_energy_per_atom (eV), reason."""
    import sys

    import pandas as pd

    from crysmetrics.evaluation import as_sample
    from crysmetrics.metrics.alignn import energies

    request.check_outputs(output)
    with request.progress():
        sample = as_sample(source, "gen", request.run)
        values = energies(sample)
    reasons = dict(sample.failed_features())
    failed = list(sample.crystals.failures)
    table = pd.DataFrame(
        {
            "id": [*sample.crystals.ids, *(f.file for f in failed)],
            "formation_energy_per_atom": [*values, *([None] * len(failed))],
            "reason": [
                *(reasons.get(i, "") for i in sample.crystals.ids),
                *(f.reason for f in failed),
            ],
        }
    )
    from crysmetrics.io.csv_files import write_csv

    if output is None:
        write_csv(table, sys.stdout)
    else:
        save_table(table, output)
