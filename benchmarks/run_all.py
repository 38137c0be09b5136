"""Run every benchmark in turn and print its tables (`make bench`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

SCRIPTS = (
    "bench_reading.py",
    "bench_metrics.py",
    "bench_crystalnn.py",
    "bench_fingerprints.py",
    "bench_cgcnn.py",
    "bench_cdvae_property.py",
    "bench_coverage.py",
    "bench_alignn.py",
    "bench_matching.py",
    "bench_novelty.py",
    "bench_evaluate.py",
)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
def main(data: Path) -> None:
    """DATA is the folder with mp20/, perov5/, carbon24/ and cif_folders/."""
    for script in SCRIPTS:
        command = [sys.executable, str(Path(__file__).with_name(script)), "--data", str(data)]
        print(f"`python benchmarks/{script}`\n", flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
