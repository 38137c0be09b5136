"""The crystals a generator is trained on: chosen, brought to one form, packed, batched.

Run as a program it packs this project's data: `python -m crysgen.training.data DATA -o packed.npz`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crysgen.diffusion.lattice import niggli_reduce
from crysgen.training.batch import Batch
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals, Failure, read

ENERGY = "formation_energy_per_atom"
"""Property of packed crystals in eV/atom; NaN where the source has none."""
SPLIT = "split"
"""Property of packed crystals: `train` or `val`."""
MAX_ATOMS = 20
MAX_ABOVE_HULL = 0.3
"""eV/atom; entries of the tables far above the hull are left out, where that is known."""
_TABLES = {
    "mp20_val": "mp20/val.csv.gz",
    "mp20_extra": "mp20/extra.csv.gz",
    "mpts52_val": "mpts52/val.csv.gz",
    "mpts52_test": "mpts52/test.csv.gz",
}
_FOLDERS = {name: f"cif_folders/{name}.zip" for name in ("mp", "oqmd", "alexandria", "jarvis")}
_HULL_COLUMNS = ("e_above_hull", "energy_above_hull")
_SYMPREC = 0.01
_SMALLEST_VOLUME = 2.0
_LARGEST_VOLUME = 200.0
"""Å³ per atom: limits of the crystals that models learn from."""


def canonical(crystals: Crystals, primitive: bool = True) -> Crystals:
    """Return the crystals in the cells that models are trained on: Niggli, right-handed.

    Args:
        crystals: any.
        primitive: also reduced to primitive cells (spglib, within 0.01 Å).

    Returns:
        Crystals; those without such a cell are failures with a reason.
    """
    parts, failures = [], list(crystals.failures)
    for crystal in crystals:
        name = crystal.ids[0]
        try:
            small = _primitive(crystal) if primitive else crystal
            reduced, transforms = niggli_reduce(small.lattices)
            frac = small.frac_coords @ np.linalg.inv(transforms[0])
            parts.append(replace(small, lattices=reduced, frac_coords=frac))
        except ValueError as error:
            failures.append(Failure(name, str(error)))
    return Crystals.concatenate(parts).with_failures(failures)


def _primitive(crystal: Crystals) -> Crystals:
    """Find the primitive cell of a crystal, or return the crystal where none is smaller."""
    from crysmetrics.symmetry import cells_of, primitive_cell

    lattice, frac, numbers = primitive_cell(cells_of(crystal)[0], _SYMPREC)
    if len(numbers) == len(crystal.atomic_numbers):
        return crystal
    return Crystals(
        numbers, frac, lattice[None], np.array([len(numbers)]), crystal.ids, crystal.properties
    )


def plausible(crystals: Crystals) -> Crystals:
    """Leave out crystals of an absurd volume per atom; they become failures."""
    volumes = crystals.volumes / crystals.num_atoms
    good = (volumes >= _SMALLEST_VOLUME) & (volumes <= _LARGEST_VOLUME)
    failures = [
        Failure(crystals.ids[i], f"has {volumes[i]:.3g} Å³ per atom") for i in np.flatnonzero(~good)
    ]
    return crystals[good].with_failures((*crystals.failures, *failures))


def project_data(folder: Path, max_atoms: int = MAX_ATOMS) -> Crystals:
    """Read what is marked `train` or `val` in this project's data, with `split` and energies.

    Args:
        folder: with `splits.csv.gz`.
        max_atoms: of a structure as it stands in the data.

    Raises:
        UserError: if this is not the data folder.
    """
    import pandas as pd

    splits = folder / "splits.csv.gz"
    if not splits.is_file():
        raise UserError(f"{folder} is not the data folder: it has no {splits.name}.")
    table = pd.read_csv(splits, dtype={"id": str}, keep_default_na=False)
    table = table[table.split.isin(["train", "val"]) & (table.num_atoms <= max_atoms)]
    parts = []
    for source, file in (_TABLES | _FOLDERS).items():
        rows = table[table.source == source]
        keys = rows.cif_file.map(lambda f: Path(f).stem) if source in _FOLDERS else rows.id
        names = dict(zip(keys, zip(rows.id, rows.split, strict=True), strict=True))
        crystals = read(folder / file)
        hull = np.zeros(len(crystals))
        for column in _HULL_COLUMNS:
            hull = np.nan_to_num(np.asarray(crystals.properties.get(column, hull), dtype=float))
        take = [
            i for i, name in enumerate(crystals.ids) if name in names and hull[i] <= MAX_ABOVE_HULL
        ]
        part = crystals[take]
        energies = np.asarray(part.properties.get(ENERGY, np.full(len(part), np.nan)), dtype=float)
        found = [names[name] for name in part.ids]
        part = replace(
            part.with_ids([f"{source}/{identity}" for identity, _ in found]),
            properties={SPLIT: np.array([split for _, split in found]), ENERGY: energies},
        )
        parts.append(part)
    return plausible(canonical(Crystals.concatenate(parts)))


def training_sets(
    paths: Sequence[str | Path],
    val: str | Path | None,
    max_atoms: int,
    val_share: float = 0.05,
    seed: int = 0,
    id_column: str | None = None,
    cif_column: str | None = None,
) -> tuple[Crystals, Crystals]:
    """Read crystals to train on, and crystals to select the best weights by.

    Args:
        paths: anything `crysmetrics.io.read` reads. Packed crystals with a property `split` are
            divided by it, and taken as they are; others are brought to canonical cells.
        val: crystals to select by; by default what is marked `val`, or else a random share.
        max_atoms: larger crystals are left out.
        val_share: of the crystals, where nothing is marked.
        seed: of that random choice.
        id_column: of tables and JSON; None for the usual names.
        cif_column: the column of structures; None for the usual names.

    Raises:
        UserError: if either set is empty.
    """
    parts = []
    for number, path in enumerate(paths):
        crystals = _prepared(path, max_atoms, id_column, cif_column)
        if len(paths) > 1:
            crystals = crystals.with_ids([f"{number}/{name}" for name in crystals.ids])
        parts.append(crystals)
    crystals = Crystals.concatenate(parts)
    marked = crystals.properties.get(SPLIT)
    if val is not None:
        train = crystals if marked is None else crystals[marked != "val"]
        chosen = _prepared(val, max_atoms, id_column, cif_column)
    elif marked is not None and (marked == "val").any():
        train, chosen = crystals[marked == "train"], crystals[marked == "val"]
    else:
        order = np.random.default_rng(seed).permutation(len(crystals))
        count = max(1, round(val_share * len(order)))
        train, chosen = crystals[np.sort(order[count:])], crystals[np.sort(order[:count])]
    for name, part in (("train on", train), ("select by", chosen)):
        if not len(part):
            raise UserError(f"There are no crystals of at most {max_atoms} atoms to {name}.")
    return train, chosen


def _prepared(
    path: str | Path, max_atoms: int, id_column: str | None, cif_column: str | None
) -> Crystals:
    crystals = read(path, id_column=id_column, cif_column=cif_column)
    if not len(crystals):
        raise InputError(f"{path} holds no crystal that can be used.")
    crystals = crystals[crystals.num_atoms <= max_atoms]
    return crystals if SPLIT in crystals.properties else plausible(canonical(crystals))


class BatchOrder:
    """The order in which crystals are seen: shuffled, and batched with others of their size.

    An epoch is a pure function of seed and number, so that a resumed run goes on as it would have.

    Args:
        num_atoms: (B,) of the crystals.
        batch_atoms: atoms of a batch, padding included.
        seed: of the order.
    """

    def __init__(self, num_atoms: NDArray[np.int64], batch_atoms: int, seed: int) -> None:
        self.num_atoms, self.batch_atoms, self.seed = num_atoms, batch_atoms, seed

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Return the rows of each batch of an epoch."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.num_atoms))
        order = order[np.argsort(self.num_atoms[order], kind="stable")]
        batches: list[NDArray[np.int64]] = []
        start = 0
        while start < len(order):
            # Sorted upward: the last one decides the padding.
            end = start + 1
            while end < len(order) and (end + 1 - start) * self.num_atoms[order[end]] <= (
                self.batch_atoms
            ):
                end += 1
            batches.append(order[start:end])
            start = end
        return [batches[i] for i in rng.permutation(len(batches))]


class DeviceCrystals:
    """All crystals of a set as one padded batch on a device, from which batches are gathered.

    Args:
        crystals: the set.
        device: where they are held.
        properties: names of numeric properties to take along.
        partial: names of those that crystals may lack.
    """

    def __init__(
        self,
        crystals: Crystals,
        device: str | torch.device,
        properties: Sequence[str] = (),
        partial: Sequence[str] = (),
    ) -> None:
        self.num_atoms = crystals.num_atoms
        self.all = Batch.from_crystals(crystals, torch.float32, properties, partial).to(device)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def batch(self, rows: NDArray[np.int64], pad_to: int | None = None) -> Batch:
        """Gather the crystals of these rows.

        Args:
            rows: which.
            pad_to: number of atoms; the largest crystal's by default.
        """
        size = int(self.num_atoms[rows].max()) if pad_to is None else pad_to
        index: Tensor = torch.from_numpy(rows).to(self.all.lattices.device)
        found = self.all[index]
        return replace(
            found,
            atomic_numbers=found.atomic_numbers[:, :size],
            frac_coords=found.frac_coords[:, :size],
        )

    def batches(self, batch_atoms: int) -> Iterator[Batch]:
        """Iterate over batches of all crystals once, in order of size."""
        for rows in BatchOrder(self.num_atoms, batch_atoms, 0).epoch(0):
            yield self.batch(rows)


def main() -> None:
    """Pack this project's data."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path, help="the data folder, with splits.csv.gz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .npz")
    parser.add_argument("--max-atoms", type=int, default=MAX_ATOMS)
    arguments = parser.parse_args()
    crystals = project_data(arguments.data, arguments.max_atoms)
    crystals.save(arguments.output)
    marked = crystals.properties[SPLIT]
    print(
        f"{(marked == 'train').sum()} train, {(marked == 'val').sum()} val, "
        f"{len(crystals.failures)} left out, {arguments.output.stat().st_size / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    main()
