"""Noise of sampling, and symmetry at the end: what each does to samples of `val` compositions.

    python -m crysgen.training.data ../shared/data -o packed.npz
    python benchmarks/sampling_study.py packed.npz --noise 0.5,0.5,1 --noise 1,1,0 --steps 50

One sample for each crystal marked `val`, for each noise of positions, noise of cells and
anti-annealing (see `GemsDiffConfig`), with the same seeds, as they come and made symmetric.
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
@click.option("--noise", "noises", multiple=True, help="P,C,A; the model's own if not given.")
@click.option("--tolerances", default="0.3,1", show_default=True, help="Å, of symmetry at the end.")
@click.option("--steps", type=int, help="Of the diffusion; all by default.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--limit", type=int, help="Compositions, drawn at random; all by default.")
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the samples.")
def main(packed: Path, name: str, noises: tuple[str, ...], tolerances: str, steps: int | None,
         seeds: int, limit: int | None, device: str, output: Path | None) -> None:  # fmt: skip
    """Print one line for each set, then a Markdown table."""
    val = read(packed)
    val = val[val.properties[SPLIT] == "val"]
    if limit is not None:
        val = val[np.sort(np.random.default_rng(0).permutation(len(val))[:limit])]
    model: Any = load_model(name, device)
    own = f"{model.config.position_noise},{model.config.cell_noise},{model.config.anti_annealing}"
    rows = []
    for seed in range(seeds):
        for noise in noises or (own,):
            positions, cells, amplified = map(float, noise.split(","))
            model.config = replace(
                model.config,
                position_noise=positions,
                cell_noise=cells,
                anti_annealing=amplified,
            )
            started = time.process_time()
            made = sampled(model, val, seed, steps, device)
            seconds = time.process_time() - started
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                made.save(output / f"{noise}-seed{seed}.npz")
            for tolerance in (None, *map(float, tolerances.split(","))):
                exact = made if tolerance is None else symmetrized_in_place(made, tolerance)
                row = {"noise": noise, "seed": seed, "tolerance": tolerance}
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
