"""Crystal structure prediction as `crysgen sample` does it: each method alone and all together.

    python benchmarks/csp/methods.py --data ../shared/data --split test --limit 200

One command for the whole table: retrieval, diffusion, refinement and both together, with and
without predicted energies, by number of elements, and by whether the formula is in `train`; on a
GPU with `--device cuda`. `--split test` is for final figures, not for tuning. Rows with `--relax`
are marked: CHGNet was trained on these compounds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from answers import atoms_of
from numpy.typing import NDArray
from retrieval import formulas_in, targets_of

from crysgen.generation import run
from crysgen.output import Store
from crysgen.proposers.base import METHODS, build_methods
from crysgen.requests import ask_crystals
from crysgen.retrieval.library.library import Library
from crysgen.samples import Result
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.evaluation import evaluate_measures
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals
from crysmetrics.metrics.settings import EvaluationSettings

TOPS = (1, 5, 20)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True)
@click.option("--limit", type=int, help="So many compositions, drawn at random.")
@click.option("--methods", default="retrieval,diffusion,refine,auto", show_default=True)
@click.option("--energies", type=click.Choice(["both", "yes", "no"]), default="both")
@click.option("--relax", is_flag=True, help="Rows with CHGNet besides.")
@click.option("--model", help="Of diffusion; the default one if not given.")
@click.option("-n", "count", default=20, show_default=True, help="Structures a composition.")
@click.option("--device", default="auto", show_default=True)
@click.option("--workers", type=int)
@click.option("--parts/--no-parts", default=True, help="Rows by elements and by formula.")
def main(data: Path, split: str, limit: int | None, methods: str, energies: str, relax: bool,
         model: str | None, count: int, device: str, workers: int | None,
         parts: bool) -> None:  # fmt: skip
    """Print one Markdown table, a part of it after each method."""
    targets = targets_of(data, split)
    if limit is not None and limit < len(targets):
        chosen = np.random.default_rng(0).permutation(len(targets))[:limit]
        targets = targets[np.sort(chosen)]
    masks = parts_of(targets) if parts else {"all": np.ones(len(targets), dtype=bool)}
    resources = Resources(device=device, workers=workers, cache="off")
    with_energies = {"both": (False, True), "yes": (True,), "no": (False,)}[energies]
    ways = [
        (name, SamplingSettings(method=name, energies=e, model=model, library="benchmark"))
        for name in methods.split(",")
        for e in with_energies
    ]
    if relax:
        ways += [
            (
                f"{name}, CHGNet",
                SamplingSettings(
                    method=name, energies=with_energies[-1], relax=True, library="benchmark"
                ),
            )
            for name in methods.split(",")
        ]
    rows: list[dict[str, Any]] = []
    for name, settings in ways:
        if settings.method not in METHODS:
            raise click.UsageError(f"there is no method {settings.method!r}")
        started = time.perf_counter()
        result = predicted(targets, count, settings, resources)
        took = (time.perf_counter() - started) / len(targets)
        title = f"{name}{', energies' if settings.energies else ''}"
        first = measured(result, targets, masks, title, device, workers)
        first[0]["s a composition"] = took
        rows += first
        print(pd.DataFrame(first).to_markdown(index=False, floatfmt=".3f"), flush=True)
    print()
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))


def predicted(
    targets: Crystals, count: int, settings: SamplingSettings, resources: Resources
) -> Result:
    """Ranked structures of the exact cell compositions of the targets."""
    requests = ask_crystals(targets, count)
    return run(requests, build_methods(requests, settings, resources), settings, resources, Store())


def parts_of(targets: Crystals) -> dict[str, NDArray[np.bool_]]:
    """All, by number of elements, and by whether the formula occurs in `train`."""
    kinds = np.array([len(atoms_of(target)) for target in targets])
    in_train = formulas_in(Library.load(extra=[]), targets)
    parts = {"all": np.ones(len(targets), dtype=bool)}
    parts |= {f"{k} elements": kinds == k for k in np.unique(kinds).tolist()}
    return parts | {"formula in train": in_train, "formula not in train": ~in_train}


def measured(
    result: Result,
    targets: Crystals,
    masks: dict[str, NDArray[np.bool_]],
    title: str,
    device: str,
    workers: int | None,
) -> list[dict[str, Any]]:
    """One row for each part, by `crysmetrics match`."""
    owner = result.table["ref_id"].to_numpy()
    made = replace(
        result.crystals,
        properties={"ref_id": owner.astype(str), "rank": result.table["rank"].to_numpy()},
    )
    settings = EvaluationSettings(top=TOPS)
    rows = []
    for part, mask in masks.items():
        if not mask.any():
            continue
        some = targets[np.flatnonzero(mask)]
        mine = made[np.flatnonzero(np.isin(owner, some.ids))]
        report = evaluate_measures(
            ["match"], mine, some, settings, run=Run(device=device, workers=workers)
        )
        row: dict[str, Any] = {"method": title, "part": part, "n": len(some)}
        for top in TOPS:
            value = report.metrics["match_rate" if top == 1 else f"match_rate_top{top}"]
            row[f"match {top}"], row[f"± {top}"] = value.value, value.stderr
        for key in ("match_rate_valid", "rmse", "metre", "crmse"):
            row[key] = report.metrics[key].value
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
