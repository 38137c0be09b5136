"""A generator on the compositions of the MP-20 test split, one sample each.

Samples with atoms on top of each other are drawn again, as `crysgen sample` does it.

    python benchmarks/bench_generator.py --data ../shared/data --model NAME|PATH [--limit 1000]

Prints the table of `RESULTS.md`, published rows beside ours, and with `--json` writes the metrics
that `crysgen.release` puts on a model's card.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import table

from crysmetrics.evaluation import evaluate_measures
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals, read
from crysmetrics.metrics.settings import EvaluationSettings

MEASURES = ("validity", "emd", "emd_energy", "coverage", "fad", "match")
KEYS = (
    *("struct_validity", "emd_density", "emd_energy", "cov_recall", "cov_precision"),
    *("cov_recall_marginal", "cov_precision_marginal", "fad", "match_rate", "rmse"),
)
PUBLISHED: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "GemsDiff, whole MP-20 test split (paper, Tables 2 and 3; its own ALIGNN weights)",
        {
            "struct_validity": "0.9905 ± 0.0020",
            "emd_density": "0.333 ± 0.033",
            "emd_energy": "(0.198 ± 0.009)",
            "fad": "(1.509 ± 0.115)",
        },
    ),
    (
        "CDVAE, whole MP-20 test split (as given in the GemsDiff paper)",
        {
            "struct_validity": "1.0000",
            "emd_density": "0.688",
            "emd_energy": "(0.278)",
            "fad": "(1.777)",
        },
    ),
)
"""In brackets: not comparable in absolute terms, since the energies are another network's."""


def sampled(
    model: Any,
    reference: Crystals,
    seed: int,
    steps: int | None,
    device: str,
    redraw_clashes: bool = True,
) -> Crystals:
    """One structure for each composition, with the ids of the reference."""
    from crysgen.models.targets import Target
    from crysgen.requests import Draw, derived_seed
    from crysgen.sampling import plan_batches, sample

    draws = []
    for number, crystal in enumerate(reference):
        atoms = tuple(sorted(crystal.atomic_numbers.tolist()))
        first = derived_seed(seed, atoms, number)
        draws.append(Draw(number, number, Target(first, atoms), number, seed))
    batches = plan_batches(draws, device=device)
    parts = list(sample(model, batches, steps=steps, device=device, redraw_clashes=redraw_clashes))
    made = Crystals.concatenate(parts)
    return made.with_ids([reference.ids[int(name)] for name in made.ids]).with_failures(
        made.failures
    )


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", "names", multiple=True, required=True, help="Name or path; repeatable.")
@click.option("--limit", type=int, help="Compositions, drawn at random; all by default.")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--steps", type=int, help="Of the diffusion; all by default.")
@click.option("--seeds", default=1, show_default=True, help="Runs with different noise.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--real/--no-real", default=True, help="A row of real structures, for scale.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Metrics of seed 0.")
def main(
    data: Path,
    names: tuple[str, ...],
    limit: int | None,
    split: str,
    steps: int | None,
    seeds: int,
    device: str,
    real: bool,
    json_path: Path | None,
) -> None:
    """Print a Markdown table."""
    from crysgen.checkpoints import load_model

    reference = split_of(data, split)
    if limit is not None:
        rows = np.random.default_rng(0).permutation(len(reference))[:limit]
        reference = reference[np.sort(rows)]
    rows_out: list[tuple[str, ...]] = []
    for name in names:
        model = load_model(name, device)
        found = []
        for seed in range(seeds):
            started = time.perf_counter()
            made = sampled(model, reference, seed, steps, device)
            elapsed = time.perf_counter() - started
            report = measured(made, reference, device)
            found.append({k: report.metrics[k].value for k in KEYS} | {"seconds": elapsed})
            if seed == 0 and json_path is not None:
                json_path.write_text(report.to_json())
        taken = steps or model.default_steps
        title = f"{name}, {len(reference)} compositions of {split}, {taken} steps"
        rows_out.append((title, *(spread([f[k] for f in found]) for k in (*KEYS, "seconds"))))
    if real:
        other = split_of(data, "val" if split == "test" else "test")
        pick = np.random.default_rng(1).permutation(len(other))[: len(reference)]
        report = measured(other[np.sort(pick)], reference, device, paired=False)
        values = [report.metrics[k].value if k in report.metrics else None for k in KEYS]
        rows_out.append(("real structures of the other split", *map(shown, values), ""))
    for title, values_of in PUBLISHED:
        rows_out.append((title, *(values_of.get(k, "") for k in KEYS), ""))
    print(table("Generators on compositions of the MP-20 test split", ("", *KEYS, "s"), rows_out))


def split_of(data: Path, split: str) -> Crystals:
    """The published split's binary and ternary compounds; of val the rows marked `val`."""
    import pandas as pd

    crystals = read(data / "mp20" / f"{split}.csv.gz")
    if split == "test":
        return crystals
    marks = pd.read_csv(data / "splits.csv.gz", dtype={"id": str}, keep_default_na=False)
    chosen = set(marks[(marks.source == "mp20_val") & (marks.split == "val")].id)
    return crystals[[i for i, name in enumerate(crystals.ids) if name in chosen]]


def measured(made: Crystals, reference: Crystals, device: str, paired: bool = True) -> Any:
    """The report of all metrics of the table."""
    measures = [m for m in MEASURES if paired or m != "match"]
    settings = EvaluationSettings(metre=False) if paired else EvaluationSettings()
    return evaluate_measures(measures, made, reference, settings, run=Run(device=device))


def spread(values: list[float | None]) -> str:
    """Mean and deviation over seeds."""
    numbers = [v for v in values if v is not None]
    if not numbers:
        return "undefined"
    if len(numbers) == 1:
        return shown(numbers[0])
    return f"{shown(float(np.mean(numbers)))} ± {shown(float(np.std(numbers, ddof=1)))}"


def shown(value: float | None) -> str:
    """Four significant digits."""
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
