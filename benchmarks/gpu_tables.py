"""Tables of what benchmarks/gpu_training.py brought back, on a CPU.

    python benchmarks/gpu_tables.py OUT packed.npz --test test.npz

One row for each set of samples; crystals that were asked for and not made count as missed. Samples
of free compositions have a table of their own, against the test set.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import pandas as pd
from gpu_samples import text_of

import crysmetrics
from crysgen.training.data import training_sets
from crysmetrics.io import Crystals

METRICS = "match_rate,rmse,struct_validity,emd_density"
FREE_METRICS = "comp_validity,struct_validity,emd_num_elements,emd_density,uniqueness"


@click.command()
@click.argument("output", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--test", type=click.Path(exists=True, path_type=Path), help="As it was sampled.")
@click.option("--metrics", default=METRICS, show_default=True, help="Of crysmetrics.")
@click.option("--free-metrics", default=FREE_METRICS, show_default=True, help="Of free samples.")
@click.option("--limit", type=int, help="The first so many samples of each set alone.")
@click.option("--workers", type=int, default=1, show_default=True)
def main(
    output: Path,
    data: Path,
    test: Path | None,
    metrics: str,
    free_metrics: str,
    limit: int | None,
    workers: int,
) -> None:
    """Print the trainings and the metrics of their samples as Markdown."""
    summary = json.loads((output / "summary.json").read_text())
    runs = pd.DataFrame(summary["runs"]).T
    click.echo(f"{summary['device']}, PyTorch {summary['torch']}\n")
    click.echo(runs.to_markdown())
    if summary["not_done"]:
        click.echo("\nNot done: " + ", ".join(summary["not_done"]))
    references = {"val": training_sets([data], None, 20)[1]}
    if test is not None:
        references["test"] = Crystals.load(test)
    rows, free = [], []
    for name, made in brought_back(output):
        facts = summary["samples"][name.removesuffix(".npz")]
        if facts["set"] in references:
            reference = references[facts["set"]]
            asked = reference[: facts["asked"]][:limit]
            names = set(asked.ids)
            made = made[[i for i, name in enumerate(made.ids) if name in names]]
            rows.append(row_of(made, asked, facts, metrics, workers))
        elif facts["set"] == "free" and test is not None:
            free.append(row_of(made[:limit], references["test"], facts, free_metrics, workers))
    for table in (rows, free):
        if table:
            click.echo("\n" + pd.DataFrame(table).to_markdown(index=False))


def brought_back(output: Path) -> list[tuple[str, Crystals]]:
    """Read all samples of the zip files, by name."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for zipped in sorted(output.glob("samples*.zip")):
            with zipfile.ZipFile(zipped) as archive:
                for name in archive.namelist():
                    path = Path(folder) / "samples.npz"
                    path.write_bytes(archive.read(name))
                    found.append((name, Crystals.load(path)))
    return found


def row_of(
    made: Crystals, reference: Crystals, facts: dict[str, Any], metrics: str, workers: int
) -> dict[str, Any]:
    """Measure samples against a reference: where they have its ids, pair by pair."""
    report = crysmetrics.evaluate(made, reference, metrics=metrics.split(","), workers=workers)
    settings = ", ".join(f"{k} {text_of(v)}" for k, v in facts["settings"].items())
    return {
        "run": facts["run"],
        "set": facts["set"],
        "seed": facts["seed"],
        "steps": facts["steps"] or "",
        "settings": settings,
        "crystals": len(made),
        **{k: shown(v.value, v.stderr) for k, v in report.metrics.items()},
        "s": facts["seconds"],
    }


def shown(value: float | None, error: float | None) -> str:
    """Show a value with its standard error, where there is one."""
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")


if __name__ == "__main__":
    main()
