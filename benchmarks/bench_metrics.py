"""Metrics against pymatgen, smact and SciPy, on the same structures in the same run.

python benchmarks/bench_metrics.py --data ../shared/data
"""

from __future__ import annotations

import warnings
from pathlib import Path

import click
import numpy as np
from common import once, peak_memory, seconds, table
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist

from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals, read
from crysmetrics.metrics.emd import densities
from crysmetrics.metrics.gaussians import Statistics, frechet_distance
from crysmetrics.metrics.neighbours import distance_sums, nearest_both_ways
from crysmetrics.metrics.oxidation import valid_compositions


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", default=2000, show_default=True, help="Structures given to the peers.")
def main(data: Path, limit: int) -> None:
    """Print three Markdown tables."""
    warnings.simplefilter("ignore")
    crystals = read(data / "mp20" / "test.csv.gz")
    print(
        table(
            "Metrics a structure, one core, MP-20 test split",
            ("what", "peer", "peer µs", "ours µs", "ratio"),
            per_structure(crystals, limit),
        )
    )
    columns = ("what", "peer", "peer s", "ours s", "ratio", "largest difference")
    print(table("Set against set, random fingerprints", columns, set_against_set()))
    print(
        table(
            "Memory of coverage: nearest neighbours of random fingerprints",
            ("generated x reference", "seconds", "peak growth, MB"),
            [
                (f"{n:,} x {m:,}", *peak_memory(neighbours_of, n, m))
                for n, m in ((2_000, 2_000), (10_000, 10_000), (100_000, 10_000))
            ],
        )
    )


def per_structure(crystals: Crystals, limit: int) -> list[tuple[object, ...]]:
    from smact.screening import smact_validity

    some = crystals[:limit]
    structures = some.to_pymatgen()

    def compare(what: str, peer: str, theirs: object, ours: object) -> tuple[object, ...]:
        a = once(theirs) / len(some) * 1e6  # type: ignore[arg-type]
        b = seconds(ours) / len(crystals) * 1e6  # type: ignore[arg-type]
        return what, peer, a, b, f"{a / b:,.0f}x"

    return [
        compare(
            "shortest distance",
            "pymatgen `distance_matrix` (distinct sites only)",
            lambda: [s.distance_matrix.min() for s in structures],
            lambda: min_distances(crystals, workers=1),
        ),
        compare(
            "composition validity, smact14",
            "`smact.screening.smact_validity`",
            lambda: [
                smact_validity(s.composition, oxidation_states_set="smact14") for s in structures
            ],
            lambda: valid_compositions(crystals.element_counts, "smact14"),
        ),
        compare(
            "density",
            "pymatgen `Structure.density`",
            lambda: [s.density for s in structures],
            lambda: densities(crystals),
        ),
    ]


def fingerprints(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 61)), rng.normal(size=(n, 132))


def neighbours_of(n: int, m: int) -> None:
    nearest_both_ways(fingerprints(n, 0), fingerprints(m, 1), 0.4, 10.0)


def set_against_set() -> list[tuple[object, ...]]:
    gen, ref = fingerprints(7118, 0), fingerprints(7118, 1)
    limits = 2.6, 14.0

    def by_matrix() -> np.ndarray:
        s, c = cdist(gen[0], ref[0]), cdist(gen[1], ref[1])
        both = (s <= limits[0]) & (c <= limits[1])
        return np.array([both.any(axis=k).mean() for k in (0, 1)] + [s.min(1).mean()])

    def by_blocks() -> np.ndarray:
        ours, theirs = nearest_both_ways(gen, ref, *limits)
        shares = [(near.structure_within <= limits[0]).mean() for near in (theirs, ours)]
        return np.array([*shares, ours.structure.mean()])

    def by_sqrtm() -> np.ndarray:
        a, b = np.cov(gen[1].T), np.cov(ref[1].T)
        means = gen[1].mean(0) - ref[1].mean(0)
        return means @ means + np.trace(a + b - 2 * sqrtm(a @ b).real)

    def by_factors() -> float:
        return frechet_distance(Statistics.of(gen[1]), Statistics.of(ref[1]))

    def by_sums() -> float:
        n = len(gen[1])
        return float(distance_sums(gen[1]).sum() / (n * (n - 1)))

    rows = []
    for what, peer, theirs, ours in (
        ("coverage, 7,118 x 7,118", "SciPy `cdist`, whole matrices", by_matrix, by_blocks),
        ("diversity, 7,118 x 132", "SciPy `pdist`", lambda: pdist(gen[1]).mean(), by_sums),
        ("Fréchet distance, 132 wide", "SciPy `sqrtm`", by_sqrtm, by_factors),
    ):
        a, b = once(theirs), seconds(ours, 2)  # type: ignore[arg-type]
        difference = float(np.max(np.abs(np.asarray(theirs()) - np.asarray(ours()))))
        rows.append((what, peer, a, b, f"{a / b:.1f}x", f"{difference:.1e}"))
    return rows


if __name__ == "__main__":
    main()
