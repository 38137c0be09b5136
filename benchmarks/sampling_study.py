"""Settings of sampling, and symmetry at the end: what each does to samples of `val` compositions.

    python -m crysgen.training.data ../shared/data -o packed.npz
    python benchmarks/sampling_study.py packed.npz --steps 50 \\
        --settings anti_annealing=20,cell_anti_annealing=4 --settings anti_annealing=0

One sample for each crystal marked `val`, for each set of settings (see `GemsDiffConfig`), with the
same seeds, as they come and made symmetric. Samples with atoms on top of each other are drawn again
only with `--redraw`, as `crysgen sample` does it.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from bench_generator import sampled

from crysgen.checkpoints import DEFAULT_MODEL, load_model
from crysgen.training.data import SPLIT
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals, read
from crysmetrics.io.symmetrized import symmetrized_in_place
from crysmetrics.matching.distances import rms_distances
from crysmetrics.metrics.space_group_jsd import SPACE_GROUPS, jsd
from crysmetrics.symmetry import space_groups

SHORTEST = 0.5
"""Å between atoms of valid crystals."""


@click.command()
@click.argument("packed", type=click.Path(exists=True, path_type=Path))
@click.option("--model", "name", default=DEFAULT_MODEL, show_default=True)
@click.option("--settings", "changes", multiple=True, help="KEY=NUMBER,...; default: the model's.")
@click.option("--tolerances", default="0.3,1", show_default=True, help="Å, of symmetry at the end.")
@click.option("--steps", type=int, help="Of the diffusion; all by default.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--limit", type=int, help="Compositions, drawn at random; all by default.")
@click.option("--redraw", is_flag=True, help="Samples with atoms within 0.5 Å, up to four times.")
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the samples.")
def main(packed: Path, name: str, changes: tuple[str, ...], tolerances: str, steps: int | None,
         seeds: int, limit: int | None, redraw: bool, device: str,
         output: Path | None) -> None:  # fmt: skip
    """Print one line for each set, then a Markdown table."""
    val = read(packed)
    val = val[val.properties[SPLIT] == "val"]
    if limit is not None:
        val = val[np.sort(np.random.default_rng(0).permutation(len(val))[:limit])]
    model: Any = load_model(name, device)
    own = model.config
    rows = []
    for seed in range(seeds):
        for change in changes or ("",):
            try:
                pairs = [part.split("=") for part in change.split(",") if part]
                model.config = replace(own, **{key: float(value) for key, value in pairs})
            except (TypeError, ValueError) as error:
                raise click.BadParameter(f"{change}: {error}") from None
            started = time.process_time()
            made = sampled(model, val, seed, steps, device, redraw)
            seconds = time.process_time() - started
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                made.save(output / f"{change or 'own'}-seed{seed}.npz")
            for tolerance in (None, *map(float, tolerances.split(","))):
                exact = made if tolerance is None else symmetrized_in_place(made, tolerance)
                row = {"settings": change, "seed": seed, "tolerance": tolerance}
                rows.append(row | figures(exact, val) | {"CPU s": seconds})
                print(json.dumps(rows[-1]), flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4f"))


def figures(made: Crystals, val: Crystals) -> dict[str, float]:
    """Match rate, RMSE, validity, share in P1, and distance of space groups (JSD)."""
    row = {name: i for i, name in enumerate(val.ids)}
    targets = np.array([row[name] for name in made.ids], dtype=np.int64)
    pairs = np.stack([np.arange(len(made)), targets], axis=1)
    distances = np.asarray(rms_distances(made, val, pairs, workers=1))
    hit = np.isfinite(distances)
    rate = hit.sum() / len(val)
    groups, real = space_groups(made, workers=1), space_groups(val, workers=1)
    counts = [np.bincount(found - 1, minlength=SPACE_GROUPS) for found in (groups, real)]
    return {
        "match rate": float(rate),
        "±": float(np.sqrt(rate * (1 - rate) / len(val))),
        "RMSE": float(distances[hit].mean()),
        "valid": float((min_distances(made, 1) >= SHORTEST).sum() / len(val)),
        "P1": float((groups == 1).mean()),
        "JSD": float(jsd(*counts)),
    }


if __name__ == "__main__":
    main()
