"""Speed and equality of the CrystalNN fingerprint against matminer, one process and thread each.

    python benchmarks/bench_crystalnn.py --data ../shared/data --n 200

Structures are those of the MP-20 test split, read by pymatgen. Both codes get the same in the same
run; the time of reading them counts for neither. The tables printed are Markdown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import click
import numpy as np
import pandas as pd
from common import peak_memory, where
from pymatgen.core import Lattice, Structure

from crysmetrics.compiled import njit
from crysmetrics.features._crystalnn_kernel import (
    SEARCH_CUTOFF,
    Structures,
    make_weights,
    neighbour_weights,
    site_numbers,
)
from crysmetrics.features._element_data import COVALENT_RADIUS, ELECTRONEGATIVITY
from crysmetrics.features._lattice_points import find_atoms, make_crystal, make_neighbourhood
from crysmetrics.features._order_parameters import MOTIF_TABLE, make_directions
from crysmetrics.features._voronoi import build_cell, make_cell, measure_faces
from crysmetrics.features.crystalnn import crystalnn_fingerprints


def pack(structures):
    frac = np.concatenate([s.frac_coords for s in structures]) % 1.0
    frac[frac >= 1.0] = 0.0
    return (
        np.array([s.lattice.matrix for s in structures]),
        frac,
        np.concatenate([s.atomic_numbers for s in structures]),
        np.array([len(s) for s in structures]),
    )


def timed(function, repeats=1):
    """Shortest time of some runs, in seconds, and the result."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def cold_start():
    """Seconds of the first call of a process without and with compiled code on disk."""
    code = (
        "import time, numpy as np; t = time.perf_counter();"
        "from crysmetrics.features.crystalnn import crystalnn_fingerprints as f;"
        "f(np.eye(3)[None] * 4, np.zeros((1, 3)), [11], [1]); print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "NUMBA_CACHE_DIR": folder}
        return [
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    env=env,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(2)
        ]


def against_matminer(structures):
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    arrays = pack(structures)
    crystalnn_fingerprints(*pack(structures[:1]), workers=1)
    own_time, (own, reasons) = timed(lambda: crystalnn_fingerprints(*arrays, workers=1), 3)
    featurizer = CrystalNNFingerprint.from_preset("ops")

    def peer():
        rows = []
        for s in structures:
            try:
                rows.append(np.mean([featurizer.featurize(s, i) for i in range(len(s))], axis=0))
            except Exception:
                rows.append(np.full(61, np.nan))
        return np.array(rows, dtype=float)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        featurizer.featurize(structures[0], 0)
        peer_time, expected = timed(peer)
    n, sites = len(structures), int(arrays[3].sum())
    both = ~np.isnan(own).any(axis=1) & ~np.isnan(expected).any(axis=1)
    one = np.isnan(own).any(axis=1) != np.isnan(expected).any(axis=1)
    worst = np.abs(own[both] - expected[both]).max(axis=1)
    print("| | matminer | crysmetrics | ratio |\n|---|---|---|---|")
    print(
        f"| ms per structure, one core | {1e3 * peer_time / n:.2f} | {1e3 * own_time / n:.3f} "
        f"| {peer_time / own_time:.0f} |"
    )
    print(
        f"| µs per site, one core | {1e6 * peer_time / sites:.0f} | {1e6 * own_time / sites:.1f} "
        f"| {peer_time / own_time:.0f} |\n"
    )
    print("| difference of the 61 numbers | |\n|---|---|")
    print(f"| structures within 1e-6 | {100 * np.mean(worst <= 1e-6):.3f} % of {both.sum()} |")
    print(f"| largest, median of the largest | {worst.max():.1e}, {np.median(worst):.1e} |")
    print(f"| computed by one of the two only | {one.sum()} |")
    print(f"| computed by neither | {len(reasons)} |\n")


def supercells():
    """Cost per site when the cell grows."""
    rock_salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    rng = np.random.default_rng(0)
    print("| atoms in the cell | µs per site, rock salt | µs per site, with noise of 0.05 Å |")
    print("|---|---|---|")
    for scale in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (3, 2, 2), (3, 3, 2), (3, 3, 3)):
        s = rock_salt * scale
        noisy = Structure(
            s.lattice,
            s.species,
            s.cart_coords + rng.normal(0, 0.05, (len(s), 3)),
            coords_are_cartesian=True,
        )
        copies = max(1, 4000 // len(s))
        cost = []
        for crystal in (s, noisy):
            arrays = pack([crystal] * copies)
            seconds, _ = timed(lambda a=arrays: crystalnn_fingerprints(*a, workers=1), 3)
            cost.append(1e6 * seconds / (copies * len(s)))
        print(f"| {len(s)} | {cost[0]:.1f} | {cost[1]:.1f} |")
    print()


@njit()
def stages(structures, electronegativity, radius, table, last):
    """Do the stages of every site up to `last`: 0 atoms, 1 cell, 2 faces, 3 weights, 4 numbers."""
    found, cell, weights = make_neighbourhood(4096), make_cell(4096), make_weights(4096)
    near, out = make_directions(), np.empty(61)
    for b in range(len(structures.lattices)):
        first, end = structures.offsets[b], structures.offsets[b + 1]
        crystal = make_crystal(structures.lattices[b], structures.frac[first:end])
        z = structures.z[first:end]
        radius2 = min((50 / (4.18879 * crystal.density)) ** (2 / 3), SEARCH_CUTOFF**2)
        for site in range(len(z)):
            if last == 0:
                find_atoms(crystal, site, 0.0, radius2, found)
                continue
            state, n, n_planes, _, _ = build_cell(crystal, site, SEARCH_CUTOFF, found, cell)
            if last >= 2 and state == 0:
                measure_faces(cell, n, n_planes)
                if last >= 3:
                    _, count = neighbour_weights(
                        z, site, n_planes - 6, cell, electronegativity, radius, weights
                    )
                    if last >= 4:
                        site_numbers(count, weights, cell.atoms, table, near, out)


def profile(structures):
    """Share of the stages in the time of one site."""
    cells, frac, z, counts = pack(structures)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    packed = Structures(cells, frac, z.astype(np.int64), offsets, np.zeros(len(cells), bool))
    tables = ELECTRONEGATIVITY, COVALENT_RADIUS, MOTIF_TABLE
    stages(packed, *tables, 4)
    sites = len(frac)
    ends = [1e6 * timed(lambda k=k: stages(packed, *tables, k), 5)[0] / sites for k in range(5)]
    whole, _ = timed(lambda: crystalnn_fingerprints(cells, frac, z, counts, workers=1), 3)
    ends.append(1e6 * whole / sites)
    names = (
        "atoms around the site (first shell)",
        "cutting the cell",
        "solid angles and areas",
        "weights",
        "likelihoods and order parameters",
        "Python, and sites that follow the peer through qhull",
    )
    print("| stage | µs per site | share |\n|---|---|---|")
    for name, end, start in zip(names, ends, [0.0, *ends[:-1]], strict=True):
        print(f"| {name} | {end - start:.1f} | {100 * (end - start) / ends[-1]:.0f} % |")
    print()


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--n", type=int, default=200, show_default=True, help="Structures, evenly spread.")
@click.option("--cold/--no-cold", default=True, help="Measure compilation, too.")
def main(data, n, cold):
    csv = data / "mp20" / "test.csv.gz"
    table = pd.read_csv(csv)
    rows = np.unique(np.linspace(0, len(table) - 1, min(n, len(table))).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structures = [Structure.from_str(table.cif[i], fmt="cif") for i in rows]
    print(f"### CrystalNN fingerprints\n\n{where()}\n")
    print(f"{csv.name}: {len(structures)} structures, {sum(map(len, structures))} sites\n")
    against_matminer(structures)
    profile(structures)
    supercells()
    packed = pack(structures * max(1, 2000 // len(structures)))
    _, growth = peak_memory(crystalnn_fingerprints, *packed)
    print("| | |\n|---|---|")
    print(f"| growth of the peak by 2,000 structures | {growth:.1f} MB |")
    if cold:
        first, second = cold_start()
        print(f"| import and first call, nothing compiled | {first:.1f} s |")
        print(f"| import and first call, compiled code on disk | {second:.1f} s |")


if __name__ == "__main__":
    main()
