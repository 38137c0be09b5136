"""CrystalNN and Magpie fingerprints of whole sets: time and memory beside matminer's featurizers.

    python benchmarks/bench_fingerprints.py --data ../shared/data

Each row is one `crysmetrics featurize` in a process of its own, imports included, on all cores;
matminer's featurizers run on all cores too, in processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from common import table, watch

from crysmetrics.io import read, write


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--sizes", default="100,1000,7118", show_default=True)
@click.option(
    "--peer-limit", default=7118, show_default=True, help="Largest set given to matminer."
)
def main(data: Path, sizes: str, peer_limit: int) -> None:
    """Print a Markdown table of times, peak memory and ratios."""
    crystals = read(data / "mp20" / "test.csv.gz")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in map(int, sizes.split(",")):
            source = folder / f"{size}.npz"
            write(crystals[:size], source)
            seconds = {}
            for backend in ("native", "matminer"):
                if backend == "matminer" and size > peer_limit:
                    continue
                cache = folder / f"cache-{size}-{backend}"
                for state in ("cold", "warm cache"):
                    elapsed, peak = run(source, cache, backend)
                    seconds[backend, state] = elapsed
                    rows.append((f"{size:,}", backend, state, elapsed, peak, ""))
            if ("matminer", "cold") in seconds:
                ratio = seconds["matminer", "cold"] / seconds["native", "cold"]
                rows[-2] = (*rows[-2][:-1], f"{ratio:,.0f}x")
    columns = ("structures", "backend", "cache", "seconds", "peak MB", "native is faster by")
    print(table("Fingerprints of whole sets, all cores", columns, rows))


def run(source: Path, cache: Path, backend: str) -> tuple[float, float]:
    command = [
        *(sys.executable, "-c", "from crysmetrics.cli import main; main()", "featurize"),
        *(str(source), "-o", str(source.with_suffix(".features.npz")), "--overwrite", "--quiet"),
        *("--cache", str(cache), "--backend", backend),
    ]
    elapsed, peak, _ = watch(command)
    return elapsed, peak


if __name__ == "__main__":
    main()
