"""`crysmetrics evaluate` of a whole set on all cores: cold, and with a warm reference, by part.

python benchmarks/bench_evaluate.py --data ../shared/data

The generated set is the reference moved a little: positions by 0.02 Å, cells by 1 %, so that no
structure is in the cache and few have symmetry, as a generator's. Matching has its own benchmark.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from common import table, watch
from make_noisy_sets import perturb

from crysmetrics.io import read, write
from crysmetrics.metrics.registry import all_measures

SKIPPED = ("uniqueness", "match")
"""Measures by StructureMatcher."""


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", type=int, help="Structures of either set; all by default.")
@click.option("--workers", type=int, help="Cores; all by default.")
@click.option("--noise", default=0.02, show_default=True, help="Å.")
def main(data: Path, limit: int | None, workers: int | None, noise: float) -> None:
    """Print two Markdown tables."""
    ref = read(data / "mp20" / "test.csv.gz")[:limit]
    rng = np.random.default_rng(0)
    moves, strains = rng.normal(size=ref.frac_coords.shape), rng.normal(size=(len(ref), 3, 3))
    rows: list[tuple[object, ...]] = []
    parts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gen = perturb(ref, noise, moves, strains).with_ids([f"gen-{i}" for i in range(len(ref))])
        write(gen, folder / "gen")
        write(ref, folder / "ref")
        keys = ",".join(measure for measure in all_measures() if measure not in SKIPPED)
        # Compiled kernels are cached between runs; the first run of all is not one to time.
        command = [str(Path(sys.executable).with_name("crysmetrics")), "evaluate"]
        more = ["--metrics", keys, "--quiet"] + (["--workers", str(workers)] if workers else [])
        small = str(folder / "small.npz")
        gen[:60].save(small)
        watch([*command, small, small, "--cache", "off", *more])
        cache = ["--cache", str(folder / "cache")]
        for what in ("cold", "warm reference", "all warm"):
            if what == "warm reference":
                other = perturb(ref, noise, moves[::-1], strains[::-1])
                write(other, folder / "gen", overwrite=True)
            out = folder / what.replace(" ", "-")
            inputs = [str(folder / "gen"), str(folder / "ref"), "-o", str(out)]
            seconds, peak, _ = watch([*command, *inputs, *cache, *more])
            timing = json.loads((out / "metrics.json").read_text())["timing"]
            rows.append((f"{len(gen):,} x {len(ref):,}", what, seconds, peak))
            for part, value in timing.items():
                parts.setdefault(part, []).append(value)
    print(table("crysmetrics evaluate", ("sets", "cache", "seconds", "peak MB"), rows))
    columns = ("part, seconds", "cold", "warm reference", "all warm")
    order = sorted(parts, key=lambda part: -parts[part][0])
    body = [(part, *(parts[part] + ["–"] * 3)[:3]) for part in order]
    print(table("The same by part", columns, body))


if __name__ == "__main__":
    main()
