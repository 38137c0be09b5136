"""Pairs per second: our matcher beside `StructureMatcher.get_rms_dist` of pymatgen, same results.

    python benchmarks/bench_matching.py --data ../shared/data

Pairs are MP-20 test structures and copies of them with noise, substitutions into structures of the
same anonymous formula, and polymorphs, which is what match rates, deduplication and METRe meet.
Then the whole command: 20 predictions for each reference, from a folder of CIFs with samples.csv.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from common import table, watch
from numpy.typing import NDArray

from crysmetrics.io import Crystals, read, write
from crysmetrics.matching.distances import rms_distances
from crysmetrics.parallel import cpu_count

Case = tuple[str, Crystals, Crystals, NDArray[np.int64]]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--pairs", default=200, show_default=True, help="Pairs of each kind for pymatgen.")
@click.option("--references", default=500, show_default=True, help="For the whole command.")
def main(data: Path, pairs: int, references: int) -> None:
    """Print Markdown tables."""
    crystals = read(data / "mp20" / "test.csv.gz")
    rms_distances(crystals[:2], crystals[:2], [(0, 1)])  # compiled, or read from numba's cache
    rows = [compare(case) for case in cases(crystals, pairs)]
    columns = (
        *("pairs", "number", "matching", "pymatgen, pairs/s", "ours, 1 core, pairs/s"),
        *(
            "times as fast",
            f"ours, {cpu_count()} cores",
            "decisions that differ",
            "largest difference",
        ),
    )
    print(table("RMS distances of pairs", columns, rows))
    print(table("crysmetrics match --top 1,5,20", *whole_command(crystals[:references])))


def cases(crystals: Crystals, count: int) -> list[Case]:
    """Kinds of pairs: title, predictions, references, indices into both."""
    some = crystals[:: max(1, len(crystals) // count)][:count]
    same = np.stack([np.arange(len(some))] * 2, axis=1)
    found: list[Case] = [
        (f"noise {noise:g}, strain {strain:g}", perturbed(some, noise, strain), some, same)
        for noise, strain in ((0.0, 0.0), (0.01, 0.01), (0.04, 0.03), (0.1, 0.05))
    ]
    first, second = substituted(crystals, count)
    index = np.stack([np.arange(len(first))] * 2, axis=1)
    found.append(("substituted", first, second, index))
    found.append(("polymorphs", crystals, crystals, polymorphs(crystals, count)))
    return found


def compare(case: Case) -> tuple[str | int | float, ...]:
    """A row of the table."""
    from pymatgen.core.structure_matcher import StructureMatcher

    title, first, second, pairs = case
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    used = [crystals[np.unique(pairs[:, k])] for k, crystals in enumerate((first, second))]
    where = [np.unique(pairs[:, k], return_inverse=True)[1] for k in range(2)]
    a, b = (crystals.to_pymatgen() for crystals in used)
    StructureMatcher._get_reduced_istructure.cache_clear()
    start = time.perf_counter()
    theirs = [matcher.get_rms_dist(a[i], b[j]) for i, j in zip(*where, strict=True)]
    peer = time.perf_counter() - start
    expected = np.array([np.nan if found is None else found[0] for found in theirs])
    times = []
    for workers in (1, None):
        start = time.perf_counter()
        for _ in range(5):
            ours = rms_distances(first, second, pairs, workers=workers)
        times.append((time.perf_counter() - start) / 5)
    differ = int((np.isfinite(ours) != np.isfinite(expected)).sum())
    both = np.isfinite(ours) & np.isfinite(expected)
    largest = float(np.abs(ours - expected)[both].max(initial=0.0))
    n = len(pairs)
    return (
        *(title, n, f"{np.isfinite(expected).mean():.2f}", n / peer, n / times[0]),
        *(peer / times[0], n / times[1], differ, f"{largest:.0e}"),
    )


def perturbed(crystals: Crystals, noise: float, strain: float, seed: int = 0) -> Crystals:
    """Fractional coordinates and cells with normal noise."""
    rng = np.random.default_rng(seed)
    return Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords + noise * rng.normal(size=crystals.frac_coords.shape),
        crystals.lattices @ (np.eye(3) + strain * rng.normal(size=crystals.lattices.shape)),
        crystals.num_atoms,
        [f"{name}-{seed}" for name in crystals.ids],
    )


def substituted(crystals: Crystals, count: int) -> tuple[Crystals, Crystals]:
    """Structures with the elements of others of their anonymous formula, and those others."""
    rng = np.random.default_rng(0)
    families: dict[tuple[int, ...], list[int]] = {}
    for i, crystal in enumerate(crystals):
        amounts = np.unique(crystal.atomic_numbers, return_counts=True)[1]
        families.setdefault(tuple(sorted(amounts.tolist())), []).append(i)
    large = [family for family in families.values() if len(family) > 1]
    first, second = [], []
    for k in range(count):
        i, j = rng.choice(large[rng.integers(len(large))], 2, replace=False)
        old, amounts = np.unique(crystals[int(i)].atomic_numbers, return_counts=True)
        new, wanted = np.unique(crystals[int(j)].atomic_numbers, return_counts=True)
        swap = np.zeros(119, dtype=int)
        swap[old[np.argsort(amounts, kind="stable")]] = new[np.argsort(wanted, kind="stable")]
        one = crystals[int(i)]
        numbers = swap[one.atomic_numbers]
        first.append(Crystals(numbers, one.frac_coords, one.lattices, one.num_atoms, [f"{k}"]))
        second.append(crystals[int(j)].with_ids([f"{k}"]))
    return Crystals.concatenate(first), Crystals.concatenate(second)


def polymorphs(crystals: Crystals, count: int) -> NDArray[np.int64]:
    """(P, 2) pairs of different structures of one formula."""
    counts = crystals.element_counts
    reduced = counts // np.gcd.reduce(counts, axis=1, keepdims=True)
    _, formula = np.unique(reduced, axis=0, return_inverse=True)
    order = np.argsort(formula.reshape(-1), kind="stable")
    equal = np.flatnonzero(np.diff(formula.reshape(-1)[order]) == 0)
    chosen = equal[:: max(1, len(equal) // count)][:count]
    return np.stack([order[chosen], order[chosen + 1]], axis=1)


def whole_command(references: Crystals) -> tuple[tuple[str, ...], list[tuple[str | float, ...]]]:
    """Columns and rows: seconds of the command, with all it reads."""
    parts, lines = [], ["file,ref_id,rank"]
    for rank in range(1, 21):
        guesses = perturbed(references, 0.03 * rng_scale(rank), 0.03, seed=rank)
        parts.append(guesses)
        lines += [
            f"{name}.cif,{ref},{rank}"
            for name, ref in zip(guesses.ids, references.ids, strict=True)
        ]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(Crystals.concatenate(parts), folder / "gen")
        write(references, folder / "ref")
        (folder / "gen" / "samples.csv").write_text("\n".join(lines))
        for options in (("--no-metre",), ("--metre",)):
            elapsed, peak, _ = watch(
                [
                    *(sys.executable, "-c", "from crysmetrics.cli import main; main()"),
                    *("match", str(folder / "gen"), str(folder / "ref")),
                    *("--top", "1,5,20", "--quiet", *options),
                ]
            )
            predictions = 20 * len(references)
            rows.append((f"{predictions:,} for {len(references):,}", options[0], elapsed, peak))
    return ("predictions", "option", "seconds", "peak MB"), rows


def rng_scale(rank: int) -> float:
    """Later guesses are worse."""
    return 0.2 + 0.2 * rank


if __name__ == "__main__":
    main()
