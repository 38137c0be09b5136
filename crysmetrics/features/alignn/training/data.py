"""The data that ALIGNN is trained on: chosen, made into graphs and packed into one file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import InputError, UserError
from crysmetrics.features.alignn.graph import GRAPH_RULES, GraphRule, LineGraphs, line_graphs
from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    from crysmetrics.io import Crystals

SOURCES: Mapping[str, str] = {
    "mp20_val": "mp20/val.csv.gz",
    "mp20_extra": "mp20/extra.csv.gz",
    "mpts52_val": "mpts52/val.csv.gz",
    "mpts52_test": "mpts52/test.csv.gz",
}
"""Tables with formation energies, by their name in splits.csv.gz."""
TARGET = "formation_energy_per_atom"
MAX_ENERGY = 2.0
"""eV/atom; the few entries above it are no plausible compounds (CaC2 at 3.95, one at 5.15)."""
FOLD = 1e-3
"""Å and 1: coarser than in inference, since distances in data are no better than that."""

_FORMAT = "crysmetrics-alignn-training/2"
_SPLITS = ("train", "val")


@dataclass(frozen=True, eq=False)
class Packed:
    """Graphs with targets.

    Attributes:
        graphs: of B structures.
        targets: (B,) formation energies in eV/atom.
        split: (B,) 0 for train, 1 for val.
        origin: what was chosen, for the model card.
        rule: of the graphs.
    """

    graphs: LineGraphs
    targets: NDArray[np.float64]
    split: NDArray[np.int64]
    origin: dict[str, Any]
    rule: GraphRule = "cell_independent"

    def rows(self, split: str) -> NDArray[np.int64]:
        """List the rows of `train` or `val`."""
        return np.flatnonzero(self.split == _SPLITS.index(split))


def pack(arguments: argparse.Namespace) -> None:
    """Run the subcommand `pack`."""
    packed = packed_from(*chosen(arguments.data))
    save_packed(packed, arguments.output)
    print(json.dumps(packed.origin, indent=2))


def chosen(data: Path) -> tuple[Crystals, NDArray[np.int64], dict[str, Any]]:
    """Choose the structures with formation energies that are marked `train` or `val`.

    Returns:
        The structures with the property `formation_energy_per_atom`; 0 or 1 for each split; and
        a description of the choice.

    Raises:
        UserError: if this is not the data folder.
    """
    import pandas as pd

    from crysmetrics.io import Crystals, read

    splits = data / "splits.csv.gz"
    if not splits.is_file():
        raise UserError(f"{data} is not the data folder: it has no {splits.name}.")
    table = pd.read_csv(splits, dtype={"id": str}, keep_default_na=False)
    parts, split = [], []
    counts: dict[str, dict[str, int]] = {}
    dropped = 0
    for source, file in SOURCES.items():
        rows = table[(table.source == source) & table.split.isin(_SPLITS)]
        wanted = dict(zip(rows.id, rows.split, strict=True))
        crystals = read(data / file)
        energies = np.asarray(crystals.properties[TARGET], dtype=float)
        take = [
            i
            for i, name in enumerate(crystals.ids)
            if name in wanted and np.isfinite(energies[i]) and energies[i] <= MAX_ENERGY
        ]
        dropped += sum(name in wanted for name in crystals.ids) - len(take)
        part = crystals[take].with_ids([f"{source}/{crystals.ids[i]}" for i in take])
        parts.append(part)
        marks = [wanted[crystals.ids[i]] for i in take]
        split += [_SPLITS.index(mark) for mark in marks]
        counts[source] = {mark: marks.count(mark) for mark in _SPLITS}
    origin = {
        "structures": counts,
        "dropped": f"{dropped} rows above {MAX_ENERGY} eV/atom or without an energy",
        "selection": "rows marked train (val for selection) in splits.csv.gz",
        "source": "Materials Project, by way of MP-20 (CDVAE) and MPTS-52; CC BY 4.0",
    }
    return Crystals.concatenate(parts), np.array(split), origin


def packed_from(
    crystals: Crystals, split: NDArray[np.int64], origin: dict[str, Any], fold: float = FOLD
) -> Packed:
    """Pack graphs and targets of structures with the property `formation_energy_per_atom`."""
    graphs = line_graphs(crystals, rule="cell_independent", fold=fold)
    good = np.setdiff1d(np.arange(len(crystals)), list(graphs.failures))
    targets = np.asarray(crystals.properties[TARGET], dtype=float)
    return Packed(graphs[good], targets[good], split[good], {**origin, "fold": fold})


def save_packed(packed: Packed, path: str | Path) -> None:
    """Write one `.npz` without pickled objects; indices are counted within each structure."""
    graphs = packed.graphs
    first_atoms = np.repeat(graphs.atom_offsets[:-1], np.diff(graphs.bond_offsets))
    first_bonds = np.repeat(graphs.bond_offsets[:-1], np.diff(graphs.pair_offsets))
    columns = {f.name: getattr(graphs, f.name) for f in fields(graphs) if f.name != "failures"}
    for name, first in (("bond", first_atoms), ("pair", first_bonds)):
        for end in ("source", "target"):
            columns[f"{name}_{end}"] = (columns[f"{name}_{end}"] - first).astype(np.int32)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            format=np.array(_FORMAT),
            origin=np.array(json.dumps(packed.origin)),
            rule=np.array(packed.rule),
            targets=packed.targets,
            split=packed.split,
            **columns,
        )


def load_packed(path: str | Path) -> Packed:
    """Read what `save_packed` wrote.

    Raises:
        InputError: if the file is not one of ours, or is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["format"]) != _FORMAT:
                raise ValueError(f"its format is {data['format']}, not {_FORMAT}")
            columns = {f.name: data[f.name] for f in fields(LineGraphs) if f.name != "failures"}
            rest = (data["targets"], data["split"], json.loads(str(data["origin"])))
            rule = str(data["rule"])
            if rule not in GRAPH_RULES:
                raise ValueError(f"there is no rule of graphs {rule!r}")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no packed training data: {error}.") from error
    atom_offsets = np.concatenate([[0], np.cumsum(columns["atom_counts"])])
    bond_offsets, pair_offsets = columns["bond_offsets"], columns["pair_offsets"]
    first_atoms = np.repeat(atom_offsets[:-1], np.diff(bond_offsets))
    first_bonds = np.repeat(bond_offsets[:-1], np.diff(pair_offsets))
    for name, first in (("bond", first_atoms), ("pair", first_bonds)):
        for end in ("source", "target"):
            columns[f"{name}_{end}"] = columns[f"{name}_{end}"] + first
    return Packed(LineGraphs(**columns, failures={}), *rest, rule=rule)
