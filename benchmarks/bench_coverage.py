"""`crysmetrics coverage` from the command line: cold, with the reference cached, and all cached.

    python benchmarks/bench_coverage.py --data ../shared/data

The generated set is the MP-20 test split with noise in its positions: as many structures, none
of them known to the cache. Each command is a process of its own, imports included.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from common import table, watch

from crysmetrics.io import Crystals, read, write


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--sizes", default="1000,7118", show_default=True)
@click.option("--backends", default="native", show_default=True, help="native,matminer")
def main(data: Path, sizes: str, backends: str) -> None:
    """Print a Markdown table of times and peak memory."""
    reference = data / "mp20" / "test.csv.gz"
    crystals = read(reference)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in map(int, sizes.split(",")):
            write(noisy(crystals[:size], 0.02, size), folder / f"gen-{size}")
            write(crystals[:size], folder / f"ref-{size}")
            for backend in backends.split(","):
                cache = folder / f"cache-{size}-{backend}"
                for state in ("cold", "reference cached", "both cached"):
                    if state == "reference cached":
                        shutil.rmtree(cache)
                        run(folder / f"ref-{size}", folder / f"ref-{size}", cache, backend)
                    rows.append(
                        (
                            f"{size:,} x {size:,}",
                            backend,
                            state,
                            *run(folder / f"gen-{size}", folder / f"ref-{size}", cache, backend),
                        )
                    )
    columns = ("sets (folders of CIFs)", "backend", "cache", "seconds", "peak MB", "by part")
    print(table("crysmetrics coverage, all cores", columns, rows))


def noisy(crystals: Crystals, strength: float, seed: int) -> Crystals:
    rng = np.random.default_rng(seed)
    frac = crystals.frac_coords + strength * rng.normal(size=crystals.frac_coords.shape)
    ids = [f"gen-{i}" for i in range(len(crystals))]
    return Crystals(crystals.atomic_numbers, frac, crystals.lattices, crystals.num_atoms, ids)


def run(gen: Path, ref: Path, cache: Path, backend: str) -> tuple[float, float, str]:
    command = [
        *(sys.executable, "-c", "from crysmetrics.cli import main; main()", "coverage"),
        *(str(gen), str(ref), "--cache", str(cache), "--backend", backend, "--json", "-"),
        "--quiet",
    ]
    elapsed, peak, output = watch(command)
    timing = json.loads(output)["timing"]
    parts = ", ".join(f"{k} {v:.1f}" for k, v in timing.items() if k != "total")
    return elapsed, peak, parts


if __name__ == "__main__":
    main()
