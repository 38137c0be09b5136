"""Novelty, uniqueness and leakage: time, and the same answers as pymatgen's StructureMatcher.

    python benchmarks/bench_novelty.py --data ../shared/data

Generated structures are the MP-20 test split and copies of validation structures with noise; known
ones are the rest of MP-20 and MPTS-52, and noisy copies of them up to the number asked for.
pymatgen compares pairs of one reduced formula, as scripts that use it do; its time for all such
pairs follows from a sample of them. The commands read, compare and write everything.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from common import table, watch
from make_noisy_sets import perturb
from numpy.typing import NDArray

from crysmetrics.io import Crystals, read, write
from crysmetrics.matching.candidates import pairs_of_one_key
from crysmetrics.matching.cells import reduce_cells
from crysmetrics.matching.distances import matches
from crysmetrics.matching.duplicates import group_duplicates
from crysmetrics.matching.tolerances import TOLERANCES

USUAL = TOLERANCES["pymatgen"]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--generated", default=10_000, show_default=True)
@click.option("--known", default=30_000, show_default=True)
@click.option("--pairs", default=300, show_default=True, help="Pairs for pymatgen.")
@click.option("--group", default=300, show_default=True, help="Structures to group.")
@click.option("--workers", default=2, show_default=True)
def main(data: Path, generated: int, known: int, pairs: int, group: int, workers: int) -> None:
    """Print Markdown tables."""
    gen, train = sets(data, generated, known)
    print(table("Pairs of one formula, one core", *pairs_per_second(gen, train, pairs)))
    print(table("Groups of the same crystal, one core", *groups(gen, group)))
    print(table("Whole commands", *commands(gen, train, workers)))


def known_crystals(data: Path) -> Crystals:
    """MP-20 and MPTS-52 without the MP-20 test split."""
    parts = []
    for name in ("mp20/val", "mp20/extra", "mpts52/val", "mpts52/test"):
        crystals = bare(read(data / f"{name}.csv.gz"))
        parts.append(crystals.with_ids([f"{name}/{i}" for i in crystals.ids]))
    return Crystals.concatenate(parts)


def sets(data: Path, generated: int, known: int) -> tuple[Crystals, Crystals]:
    """Generated and known structures."""
    test, val = (bare(read(data / "mp20" / f"{n}.csv.gz")) for n in ("test", "val"))
    old = known_crystals(data)
    gen = Crystals.concatenate([test, noisy(val, generated - len(test), 0.05, 1)])
    train = Crystals.concatenate([old, noisy(old, known - len(old), 0.1, 2)])
    return gen[:generated], train[:known]


def bare(crystals: Crystals) -> Crystals:
    """The structures without their properties."""
    return Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords,
        crystals.lattices,
        crystals.num_atoms,
        crystals.ids,
    )


def noisy(crystals: Crystals, count: int, level: float, seed: int) -> Crystals:
    """Copies of some crystals, their positions moved by `level` Å and cells strained."""
    some = crystals[: max(0, count)]
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=some.frac_coords.shape)
    moved = perturb(some, level, noise, rng.normal(size=(len(some), 3, 3)))
    return moved.with_ids([f"{name}-{level}" for name in some.ids])


def formulas(crystals: Crystals) -> NDArray[np.uint64]:
    """(B,) keys of reduced formulas."""
    counts = crystals.element_counts
    reduced = counts // np.gcd.reduce(counts, axis=1, keepdims=True)
    weights = np.random.default_rng(0).integers(1, 2**63, reduced.shape[1], dtype=np.uint64)
    return (reduced.astype(np.uint64) * weights).sum(axis=1)


def pairs_per_second(
    gen: Crystals, train: Crystals, count: int
) -> tuple[tuple[str, ...], list[tuple[str | float, ...]]]:
    """Columns and rows: ours and pymatgen's `fit` on the same pairs, in both orders."""
    from pymatgen.core.structure_matcher import StructureMatcher

    every = pairs_of_one_key(formulas(gen), formulas(train), np.arange(len(gen)))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(every), min(count, len(every)), replace=False))
    some = every[chosen]
    matcher = StructureMatcher()
    a = [gen[i].to_pymatgen()[0] for i in some[:, 0].tolist()]
    b = [train[j].to_pymatgen()[0] for j in some[:, 1].tolist()]
    start = time.process_time()
    expected = [
        bool(matcher.fit(one, two) or matcher.fit(two, one)) for one, two in zip(a, b, strict=True)
    ]
    peer = (time.process_time() - start) / len(some)
    cells, known = reduce_cells(gen, 1), reduce_cells(train, 1)
    matches(cells, known, some[:2], USUAL, workers=1)
    # Those whose primitive cells differ in their atoms are never compared.
    start = time.process_time()
    same = cells.compositions[every[:, 0]] == known.compositions[every[:, 1]]
    found = np.zeros(len(every), dtype=bool)
    found[same] = matches(cells, known, every[same], USUAL, workers=1)
    ours = (time.process_time() - start) / len(every)
    differ = int((found[chosen] != np.array(expected)).sum())
    columns = (
        *("pairs", "pymatgen, pairs/s", "ours, pairs/s", "ratio", "pymatgen for all pairs, hours"),
        *("pairs compared with pymatgen", "that match", "answers that differ"),
    )
    row = (len(every), 1 / peer, 1 / ours, peer / ours, peer * len(every) / 3600, len(some))
    return columns, [(*row, int(sum(expected)), differ)]


def groups(gen: Crystals, count: int) -> tuple[tuple[str, ...], list[tuple[str | float, ...]]]:
    """Columns and rows: `group_structures` of pymatgen and ours on crystals and noisy copies."""
    from pymatgen.core.structure_matcher import StructureMatcher

    some = gen[: count // 3]
    copies = [noisy(some, len(some), level, 5) for level in (0.05, 0.2)]
    crystals = Crystals.concatenate([some, *copies])
    start = time.process_time()
    theirs = len(StructureMatcher().group_structures(crystals.to_pymatgen()))
    peer = time.process_time() - start
    group_duplicates(crystals[:3], USUAL, workers=1)
    start = time.process_time()
    labels = group_duplicates(crystals, USUAL, workers=1)
    ours = time.process_time() - start
    columns = ("structures", "pymatgen, s", "ours, s", "ratio", "groups by pymatgen", "ours")
    return columns, [(len(crystals), peer, ours, peer / ours, theirs, int(labels.max()) + 1)]


def commands(
    gen: Crystals, train: Crystals, workers: int
) -> tuple[tuple[str, ...], list[tuple[str | float, ...]]]:
    """Columns and rows: seconds, processor time and memory of the commands, nothing cached."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        paths = [str(Path(name) / file) for file in ("gen.npz", "train.npz")]
        write(gen, Path(paths[0]))
        write(train, Path(paths[1]))
        for command, sides in (("uniqueness", 1), ("novelty", 2), ("leakage", 2)):
            before = processor_seconds()
            elapsed, peak, _ = watch(
                [
                    *(sys.executable, "-c", "from crysmetrics.cli import main; main()"),
                    *(command, *paths[:sides], "--quiet", "--cache", "off"),
                    *("--workers", str(workers)),
                ]
            )
            known = len(train) if sides == 2 else ""
            used = processor_seconds() - before
            rows.append((command, len(gen), known, elapsed, used, peak))
    columns = ("command", "generated", "known", "seconds", "processor seconds", "peak MB")
    return columns, rows


def processor_seconds() -> float:
    """Time of all cores that processes which this one has waited for have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
