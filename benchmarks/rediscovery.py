"""Rediscovery of 36 experimentally known structures, as in Section 5.3 of the adaptive-cell paper.

    python benchmarks/rediscovery.py packed_sites.npz -o found/ --method adaptive-cell
    python benchmarks/rediscovery.py packed_sites.npz -o found/ --method retrieval
    python benchmarks/rediscovery.py packed_sites.npz -o found/ --method gemsdiff-mp-v3 --steps 20
    python benchmarks/rediscovery.py packed_sites.npz -o found/ --method adaptive-cell --relax 3

`packed_sites.npz` is what `python -m crysgen.training.site_data` packs. The structures are drawn
from those of `val` that come from MPTS-52 (experimentally known ones of the Materials Project), six
of each crystal family. A method is told the atoms of the primitive cell and the space group, and
makes 50 samples of each: a model of that name or path, or retrieval from the library of benchmarks,
which holds none of them. With `--relax K`, of each structure that no sample matches as it is, the
distinct samples of lowest energies by CHGNet, K of them, are relaxed by it and matched again;
CHGNet has seen the known compounds, so that what it relaxes to is no independent prediction. Every
structure is a piece of work, kept in the folder, so that a run goes on where it ended; without
`--method`, the table of what is there is printed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from space_group_study import maker

from crysgen.training.site_data import SPACE_GROUP
from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances
from crysmetrics.matching.duplicates import group_duplicates
from crysmetrics.matching.tolerances import TOLERANCES
from crysmetrics.potentials.registry import load_potential
from crysmetrics.relaxation import RelaxationSettings, relax_all
from crysmetrics.space_groups.groups import space_group

FAMILIES = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "cubic")
OF_EACH = 6
SOURCE = "mpts52_"
STEPS = 60
"""Of a relaxation at most; what has not ended then is matched as it is."""


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--method", default=None, help="retrieval, or a model's name or path.")
@click.option("--samples", default=50, show_default=True)
@click.option("--steps", default=100, show_default=True)
@click.option("--relax", "most", default=0, help="Distinct samples of each to relax.")
@click.option("--minutes", default=1e9, help="After which no more structure is begun.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A folder.")
def main(
    data: Path, method: str | None, samples: int, steps: int, most: int, minutes: float,
    output: Path,
) -> None:  # fmt: skip
    """Sample, match, relax, match again, and print the table."""
    torch.set_num_threads(1)
    targets = drawn(Crystals.load(data))
    if method is not None:
        folder = output / Path(method).stem
        folder.mkdir(parents=True, exist_ok=True)
        work(targets, method, samples, steps, most, time.time() + 60 * minutes, folder)
    show(targets, output)


def drawn(crystals: Crystals) -> Crystals:
    """Draw the structures: six of each crystal family, by a fixed seed."""
    there = crystals.properties["split"] == "val"
    there &= np.array([name.startswith(SOURCE) for name in crystals.ids])
    families = np.array([family_of(int(n)) for n in crystals.properties[SPACE_GROUP]])
    rng, rows = np.random.default_rng(0), []
    for family in FAMILIES:
        own = np.flatnonzero(there & (families == family))
        drawn = np.sort(rng.choice(own, min(OF_EACH, len(own)), replace=False))
        rows += [(place, row) for place, row in enumerate(drawn.tolist())]
    # The families in turn, so that a part of the work says something of all.
    return crystals[np.array([row for _, row in sorted(rows, key=lambda each: each[0])])]


def family_of(number: int) -> str:
    """Name the crystal family of a space group."""
    system = space_group(number).crystal_system
    return "hexagonal" if system == "trigonal" else system


def work(
    targets: Crystals, method: str, samples: int, steps: int, most: int, end: float, folder: Path
) -> None:
    """Do what is missing of a method, structure by structure."""
    make = None
    for target in targets:
        path = folder / f"{target.ids[0].replace('/', '_')}.json"
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        packed = path.with_suffix(".npz")
        if not kept and time.time() < end:
            make = make or maker("retrieval" if method == "retrieval" else "model", method, steps)
            begun = time.process_time()
            made = make(target, [int(target.properties[SPACE_GROUP][0])], samples)
            made.save(packed)
            kept = {"made": len(made), "seconds": time.process_time() - begun, "steps": steps}
            kept["matched"] = matching(made, target).tolist()
            path.write_text(json.dumps(kept))
        todo = most and kept and not any(kept["matched"]) and kept.get("relax") != most
        if todo and time.time() < end:
            begun = time.process_time()
            chosen, distinct = lowest(Crystals.load(packed), most)
            kept |= {"relax": most, "distinct": distinct, "relaxed": relaxed(chosen, target)}
            kept["relax_seconds"] = time.process_time() - begun
            path.write_text(json.dumps(kept))


def matching(made: Crystals, target: Crystals) -> NDArray[np.bool_]:
    """Tell of each crystal whether it matches."""
    pairs = np.stack([np.arange(len(made)), np.zeros(len(made), dtype=int)], 1)
    found: NDArray[np.bool_] = np.isfinite(rms_distances(made, target, pairs))
    return found


def lowest(made: Crystals, most: int) -> tuple[Crystals, int]:
    """Choose those of the lowest energies among distinct crystals; returns also how many are."""
    if not len(made):
        return made, 0
    labels = group_duplicates(made, TOLERANCES["pymatgen"], workers=1)
    rows = np.unique(labels[labels >= 0], return_index=True)[1]
    distinct, potential = made[np.flatnonzero(labels >= 0)[rows]], load_potential("chgnet", "cpu")
    energies = []
    for crystal in distinct:
        try:
            energies.append(float(potential.predict(crystal).energies[0]))
        except (ValueError, RuntimeError):
            energies.append(np.inf)
    order = np.argsort(energies, kind="stable")[:most]
    return distinct[order[np.isfinite(np.array(energies)[order])]], len(distinct)


def relaxed(chosen: Crystals, target: Crystals) -> list[bool]:
    """Relax crystals, and tell of each whether it matches then."""
    if not len(chosen):
        return []
    settings = RelaxationSettings(
        max_steps=STEPS, time_limit=60, keep_unfinished=True, two_volumes=False
    )
    ended = relax_all(chosen, dispersion=False, workers=1, settings=settings)
    return [bool(hit) for hit in matching(ended, target)]


def show(targets: Crystals, output: Path) -> None:
    """Print how many are found by each method, and by crystal family."""
    families = np.array([family_of(int(n)) for n in targets.properties[SPACE_GROUP]])
    names = ("method", "of", "found", *FAMILIES, "of, with relaxation", "found", "s a sample")
    print(f"| {' | '.join(names)} |")
    print("|" + " --- |" * len(names))
    for folder in sorted(path for path in output.iterdir() if path.is_dir()):
        hits, after, seconds, made = {}, {}, 0.0, 0
        for i, name in enumerate(targets.ids):
            path = folder / f"{name.replace('/', '_')}.json"
            if not path.exists():
                continue
            kept = json.loads(path.read_text())
            hits[i] = any(kept["matched"])
            seconds, made = seconds + kept["seconds"], made + max(kept["made"], 1)
            if hits[i] or "relaxed" in kept:
                after[i] = hits[i] or any(kept["relaxed"])
        each = [f"{sum(v for i, v in hits.items() if families[i] == f)}" for f in FAMILIES]
        print(
            f"| {folder.name} | {len(hits)} | {sum(hits.values())} | {' | '.join(each)} | "
            f"{len(after)} | {sum(after.values())} | {seconds / max(made, 1):.2f} |"
        )


if __name__ == "__main__":
    main()
