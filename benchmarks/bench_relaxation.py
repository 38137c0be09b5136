"""Relaxation of a batch against CHGNet's own optimizer, and against ASE one by one, in one run.

    python benchmarks/bench_relaxation.py --data ../shared/data

All three take the same crystals of the MP-20 validation part, pushed a little, the same CHGNet and
the same limits; each runs in a process of its own, with one thread. Numbers of steps differ, as
`StructOptimizer` takes FIRE where the others take BFGS.
"""

from __future__ import annotations

import time
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import click
import numpy as np
from common import peak_memory, table

from crysmetrics.io import Crystals, read
from crysmetrics.relaxation import RelaxationSettings, relax_all

FORCE, STEPS = 0.05, 100


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--count", default=16, show_default=True)
@click.option("--max-atoms", default=12, show_default=True)
def main(data: Path, count: int, max_atoms: int) -> None:
    """Print seconds of processor time, ratios and memory as a Markdown table."""
    crystals = chosen(data, count, max_atoms)
    rows: list[list[str]] = []
    ours = 0.0
    for title, function in (
        ("crysmetrics, in batches", by_batches),
        ("ASE's BFGS, one by one", by_ase),
        ("CHGNet's StructOptimizer, one by one", by_struct_optimizer),
    ):
        seconds, memory = peak_memory(function, crystals, clock=time.process_time)
        ours = ours or seconds
        rows.append(
            [
                title,
                *(f"{seconds:.1f}", f"{seconds / count:.2f}", f"{seconds / ours:.2f}"),
                f"{memory:.0f}",
            ]
        )
    columns = ["relaxation", "seconds", "a crystal", "times ours", "memory (MB)"]
    print(table(f"Relaxation of {count} crystals of up to {max_atoms} atoms", columns, rows))


def chosen(data: Path, count: int, max_atoms: int) -> Crystals:
    """Draw crystals, and push their atoms by 0.05 Å along each axis and their cells by 3 %."""
    crystals = read(data / "mp20/val.csv.gz", workers=1)
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(crystals.num_atoms <= max_atoms)
    found = crystals[np.sort(rng.choice(rows, count, replace=False))]
    pushes = rng.normal(scale=0.05, size=found.frac_coords.shape)
    cells = np.repeat(found.lattices, found.num_atoms, axis=0)
    moved = found.frac_coords + np.linalg.solve(cells.transpose(0, 2, 1), pushes[..., None])[..., 0]
    return replace(found, frac_coords=moved % 1, lattices=found.lattices * 1.03, properties={})


def by_batches(crystals: Crystals) -> None:
    """Relax all in batches."""
    settings = RelaxationSettings(max_force=FORCE, max_steps=STEPS)
    relax_all(crystals, "cpu", False, 1, settings=settings)


def by_ase(crystals: Crystals) -> None:
    """Relax one by one, with CHGNet's own calculator."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS
    from chgnet.model.dynamics import CHGNetCalculator

    from crysmetrics.potentials.base import ase_atoms
    from crysmetrics.potentials.chgnet import _model

    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator = CHGNetCalculator(_model("cpu"), use_device="cpu")
        for crystal in crystals:
            atoms = ase_atoms(crystal)
            atoms.calc = calculator
            BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=FORCE, steps=STEPS)


def by_struct_optimizer(crystals: Crystals) -> None:
    """Relax one by one, as CHGNet's documentation has it."""
    from chgnet.model.dynamics import StructOptimizer
    from pymatgen.core import Lattice, Structure

    from crysmetrics.potentials.chgnet import _model

    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = StructOptimizer(model=_model("cpu"), use_device="cpu")
        for crystal in crystals:
            structure = Structure(
                Lattice(crystal.lattices[0]), crystal.atomic_numbers.tolist(), crystal.frac_coords
            )
            optimizer.relax(structure, fmax=FORCE, steps=STEPS, verbose=False)


if __name__ == "__main__":
    main()
