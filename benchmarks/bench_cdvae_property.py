"""CDVAE's property networks: errors and percentiles on test splits, and bonds against pymatgen.

    python benchmarks/bench_cdvae_property.py --data ../shared/data --workers 1

Percentiles stand beside those of CDVAE's script, which success rates of optimisation refer to.
Bonds are compared with pymatgen's structure graphs, in the same run and on one thread each.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import click
import numpy as np
from common import where
from pymatgen.analysis.graphs import StructureGraph
from pymatgen.analysis.local_env import CrystalNN

from crysmetrics.features.bonds import crystalnn_bonds
from crysmetrics.features.cdvae_property.extractor import predict
from crysmetrics.io import Crystals, read

SETS = {
    "mp20": ("formation_energy_per_atom", (-3.1756, -2.8220, -2.5281)),
    "perov5": ("heat_ref", (0.4392, 0.6120, 0.7365)),
    "carbon24": ("energy_per_atom", (-154.5271, -154.4587, -154.4421)),
}
"""Property of each network, and its published 5th, 10th and 15th percentiles in eV/atom."""


def errors(data: Path, workers: int | None) -> None:
    """Print the error and the percentiles of each network on its test split."""
    print("| test split | structures | failed | MAE (eV/atom) | 5, 10, 15 % | published | s |")
    print("|---|---|---|---|---|---|---|")
    for dataset, (column, published) in SETS.items():
        crystals = read(data / dataset / "test.csv.gz")
        begin = time.perf_counter()
        found, failures = predict(crystals, dataset, workers=workers)
        elapsed = time.perf_counter() - begin
        error = np.nanmean(np.abs(found - np.asarray(crystals.properties[column], dtype=float)))
        ours = ", ".join(f"{p:.4f}" for p in np.nanpercentile(found, (5, 10, 15)))
        theirs = ", ".join(f"{p:.4f}" for p in published)
        print(
            f"| {dataset} | {len(crystals):,} | {len(failures)} | {error:.4f} | {ours} | {theirs} "
            f"| {elapsed:.0f} |",
            flush=True,
        )


def bonds(crystals: Crystals) -> None:
    """Print how many graphs equal pymatgen's, and both times."""
    equal, ours, theirs = 0, 0.0, 0.0
    crystalnn_bonds(crystals[:2], 1)  # compiles
    for i, structure in enumerate(crystals.to_pymatgen()):
        begin = time.perf_counter()
        found = crystalnn_bonds(crystals[[i]], 1)
        ours += time.perf_counter() - begin
        begin = time.perf_counter()
        strategy = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
        graph = StructureGraph.from_local_env_strategy(structure, strategy).graph
        theirs += time.perf_counter() - begin
        expected = set()
        for j, k, image in graph.edges(data="to_jimage"):
            expected.add((j, k, *(int(x) for x in image)))
            expected.add((k, j, *(-int(x) for x in image)))
        edges = np.column_stack([found.target, found.source, found.images])
        equal += set(map(tuple, edges.tolist())) == expected
    n = len(crystals)
    print(
        f"\nBonds of {n} crystals of MP-20: {equal} graphs equal pymatgen's; "
        f"{1000 * ours / n:.2f} ms a structure one by one, pymatgen {1000 * theirs / n:.1f} ms, "
        f"{theirs / ours:.0f} times as fast."
    )


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-n", "count", default=300, show_default=True, help="Crystals of the bond table.")
@click.option("--workers", type=int)
def main(data: Path, count: int, workers: int | None) -> None:
    """Run on DATA, the folder with mp20/, perov5/ and carbon24/."""
    warnings.filterwarnings("ignore")
    print(f"{where()}\n")
    errors(data, workers)
    crystals = read(data / "mp20" / "test.csv.gz")
    rows = np.random.default_rng(0).choice(len(crystals), count, replace=False)
    bonds(crystals[np.sort(rows)])


if __name__ == "__main__":
    main()
