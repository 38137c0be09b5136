"""Time and memory of `crysmetrics evaluate --stream` by the number of generated structures.

python benchmarks/bench_scale.py --data ../shared/data --sizes 10000,30000,100000

Sets are the structures of MP-20's test split again and again, each time moved anew, as a CSV of
CIFs, which is how the largest published sets come; the reference is that test split, by its name,
so that its features are known. Memory is what the process and its children have resident, at its
peak and at most within each tenth of the run's time: what grows with the set would show as a slope.
CPU time stands beside the time by the clock, for machines that have other things to do.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil
from common import table
from make_noisy_sets import perturb

from crysmetrics.io import Crystals, read
from crysmetrics.io.formats.cif import p1_cif

REFERENCE = "mp20-test-bt"


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--sizes", default="10000,30000,100000", show_default=True)
@click.option("--metrics", help="As for evaluate; all that can stream by default.")
@click.option("--noise", default=0.02, show_default=True, help="Å.")
@click.option("--symmetric", is_flag=True, help="Only strain cells, so that symmetry remains.")
@click.option("--workers", type=int, help="Cores; all by default.")
def main(
    data: Path,
    sizes: str,
    metrics: str | None,
    noise: float,
    symmetric: bool,
    workers: int | None,
) -> None:
    """Print a Markdown table, a row for each size as it is done."""
    ref = read(data / "mp20" / "test.csv.gz")
    keys = metrics or "validity,emd,emd_energy,coverage,diversity,fad,fad_inf,kad,fd_crystalnn"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [str(Path(sys.executable).with_name("crysmetrics")), "evaluate"]
        for size in map(int, sizes.split(",")):
            path, out = folder / f"{size}.csv", folder / f"out-{size}"
            write_csv(ref, size, noise, symmetric, path)
            options = ["--stream", "--quiet", "--metrics", keys, "-o", str(out)]
            # The cache would be filled with structures that never come again.
            options += ["--cache", "off", *(["--workers", str(workers)] if workers else [])]
            inputs = [str(path), REFERENCE]
            seconds, cpu, history = watched([*command, *inputs, *options])
            tenths = [max(part) for part in np.array_split(history, 10) if len(part)]
            timing = json.loads((out / "metrics.json").read_text())["timing"]
            parts = sorted(timing.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{part} {value:.0f}" for part, value in parts[1:6])
            within = " ".join(f"{value:.0f}" for value in tenths)
            row = (f"{size:,}", seconds, cpu, 1e3 * cpu / size, max(history), within, shown)
            rows.append(row)
            print(rows[-1], file=sys.stderr)
            path.unlink()
    columns = ("generated", "seconds", "CPU seconds", "CPU ms a structure", "peak MB",
               "peak MB in each tenth", "largest parts, seconds")  # fmt: skip
    print(table("crysmetrics evaluate --stream against 7,118 structures", columns, rows))


def watched(command: list[str]) -> tuple[float, float, list[float]]:
    """Seconds that a command took, by the clock and of CPU, and MB sampled evenly in time.

    Raises:
        RuntimeError: if it failed.
    """
    start, history, cpu = time.perf_counter(), [], 0.0
    process = psutil.Popen(command)
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            history.append(sum(p.memory_info().rss for p in family) / 1024**2)
            cpu = max(cpu, sum(sum(p.cpu_times()[:4]) for p in family))
        except psutil.Error:  # one of them ended just now
            pass
        time.sleep(0.25)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - start, cpu, history


def write_csv(ref: Crystals, size: int, noise: float, symmetric: bool, path: Path) -> None:
    """A CSV of `size` CIFs."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        written = 0
        while written < size:
            part = ref[: min(len(ref), size - written)]
            moves = rng.normal(size=part.frac_coords.shape) * (0 if symmetric else 1)
            strains = rng.normal(size=(len(part), 3, 3))
            if symmetric:  # the same factor along all axes
                strains = np.eye(3) * rng.normal(size=(len(part), 1, 1))
            moved = perturb(part, noise, moves, strains)
            for i in range(len(moved)):
                writer.writerow([f"s{written + i}", p1_cif(moved[i])])
            written += len(moved)


if __name__ == "__main__":
    main()
