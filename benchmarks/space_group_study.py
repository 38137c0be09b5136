"""Match rate of `val` compositions with their true space groups given, and without.

    python benchmarks/space_group_study.py packed_sites.npz -o model.json --count 100 --steps 50
    python benchmarks/space_group_study.py packed_sites.npz -o library.json --method retrieval

`packed_sites.npz` is what `python -m crysgen.training.site_data` packs. Prints, for each way, the
share of compositions of which the first sample matches, and of which one of several does, with its
standard error, and seconds a structure; results of each part are kept, so that it goes on where it
ended. `with` gives each composition its true group, `drawn` one that is likely for it, as
`--space-group auto` does, `without` none. Retrieval sees the library of benchmarks alone, and what
is refined comes from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from crysgen.checkpoints import load_model
from crysgen.models.targets import Target
from crysgen.requests import Draw, derived_seed
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.prototypes import SYMPREC
from crysgen.retrieval.proposals.proposal import Proposal, to_crystals
from crysgen.retrieval.propose import propose
from crysgen.sampling import plan_batches, sample
from crysgen.training.batch import Batch
from crysgen.training.site_data import NUM_SITES, SPACE_GROUP
from crysgen.wyckoff.groups import draw_space_group
from crysgen.wyckoff.placed import placed_orbits
from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances
from crysmetrics.symmetry import cells_of

PART = 20
"""Compositions that are sampled together."""
WAYS = ("with", "without", "drawn")


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--method", type=click.Choice(["model", "retrieval", "refine"]), default="model")
@click.option("--model", default="gemsdiff-mp-v3", show_default=True)
@click.option("--count", default=100, show_default=True, help="Compositions.")
@click.option("--samples", default=1, show_default=True, help="Of each.")
@click.option("--steps", default=50, show_default=True)
@click.option("--parts", default=1000, help="Of the work that are done now.")
@click.option("--ways", default="with,without", help=f"Which of {', '.join(WAYS)}.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A JSON.")
def main(
    data: Path, method: str, model: str, count: int, samples: int, steps: int, parts: int,
    ways: str, output: Path,
) -> None:  # fmt: skip
    """Sample, match, and print both rates."""
    torch.set_num_threads(1)
    crystals = Crystals.load(data)
    val = np.flatnonzero(crystals.properties["split"] == "val")
    # The first compositions are the same for any count.
    chosen = crystals[np.random.default_rng(0).permutation(val)[:count]]
    kept = json.loads(output.read_text()) if output.exists() else {}
    make = maker(method, model, steps)
    for begin in range(0, len(chosen), PART):
        for way in ways.split(","):
            key = f"{way} {begin}"
            if key in kept or parts <= 0:
                continue
            part, parts = chosen[np.arange(begin, min(begin + PART, len(chosen)))], parts - 1
            started = time.process_time()
            made = make(part, [group_of(one, way) for one in part], samples)
            seconds = time.process_time() - started
            kept[key] = {"matched": matched(made, part, samples), "seconds": seconds}
            output.write_text(json.dumps(kept))
    show(kept, samples)


def group_of(crystal: Crystals, way: str) -> int | None:
    """Return the space group that a composition is given."""
    if way == "drawn":
        atoms = tuple(crystal.atomic_numbers.tolist())
        return draw_space_group(atoms, derived_seed(0, atoms, "group"))
    return int(crystal.properties[SPACE_GROUP][0]) if way == "with" else None


Maker = Callable[[Crystals, list[int | None], int], Crystals]
"""Makes so many samples of each composition in the groups given; ids are numbers, those of one
composition after the other."""


def maker(method: str, model: str, steps: int) -> Maker:
    """Return what makes samples by a method."""
    network: Any = None if method == "retrieval" else load_model(model, "cpu")
    library = None if method == "model" else Library.load(everything=False)

    def sampled(part: Crystals, groups: list[int | None], samples: int) -> Crystals:
        draws = []
        for i, group in enumerate(groups):
            atoms = tuple(part[i].atomic_numbers.tolist())
            for k in range(samples):
                seed = 1000 * int(part.properties[NUM_SITES][i]) + k + 7919 * i
                target = Target(seed, atoms, space_group=group)
                draws.append(Draw(len(draws), i, target, k, 0))
        batches = plan_batches(draws, "cpu", size_of=network.size_of)
        made = sample(network, batches, steps=steps, device="cpu", workers=1)
        return Crystals.concatenate(list(made))

    def retrieved(part: Crystals, groups: list[int | None], samples: int) -> Crystals:
        return Crystals.concatenate(
            [
                to_crystals(found).with_ids([str(samples * i + k) for k in range(len(found))])
                for i, group in enumerate(groups)
                if (found := proposals(part[i], group, samples))
            ]
        )

    def proposals(one: Crystals, group: int | None, samples: int) -> list[Proposal]:
        elements, counts = np.unique(one.atomic_numbers, return_counts=True)
        atoms = dict(zip(elements.tolist(), counts.tolist(), strict=True))
        assert library is not None
        return propose(library, atoms, samples, space_group=group)

    def refined(part: Crystals, groups: list[int | None], samples: int) -> Crystals:
        found, rows = retrieved(part, groups, samples), []
        numbers = np.array([int(name) // samples for name in found.ids], dtype=int)
        for i in np.unique(numbers).tolist():
            starts = found[np.flatnonzero(numbers == i)]
            seeds = [derived_seed(0, one.atomic_numbers.tolist(), one.ids[0]) for one in starts]
            group = groups[i]
            if group is None:
                made = network.refine(Batch.from_crystals(starts, torch.float32), seeds)
            else:
                placed = [placed_orbits(cell, group, SYMPREC) for cell in cells_of(starts)]
                cells = [cell for cell, _ in placed]
                starts = Crystals(
                    np.concatenate([cell.atomic_numbers for cell in cells]),
                    np.concatenate([cell.frac_coords for cell in cells]),
                    np.stack([cell.lattice for cell in cells]),
                    [len(cell.atomic_numbers) for cell in cells], starts.ids,
                )  # fmt: skip
                batch = Batch.from_crystals(starts, torch.float32)
                made = network.refine_orbits(batch, [own for _, own in placed], seeds)
            rows.append(made.to_crystals(starts.ids))
        return Crystals.concatenate(rows)

    return {"model": sampled, "retrieval": retrieved, "refine": refined}[method]


def matched(made: Crystals, part: Crystals, samples: int) -> list[list[int]]:
    """Return 0 or 1 for each sample of each composition."""
    hits = np.zeros((len(part), samples), dtype=int)
    if len(made):
        numbers = np.array([int(name) for name in made.ids])
        rms = rms_distances(made, part, np.stack([np.arange(len(made)), numbers // samples], 1))
        hits.flat[numbers] = np.isfinite(rms)
    return hits.tolist()


def show(kept: dict[str, Any], samples: int) -> None:
    """Print both rates of each way."""
    for way in WAYS:
        found = [value for key, value in kept.items() if key.startswith(f"{way} ")]
        if not found:
            continue
        rows = np.concatenate([np.array(one["matched"]) for one in found])
        seconds = sum(one["seconds"] for one in found) / rows.size
        for name, hits in (("first", rows[:, 0]), (f"of {samples}", rows.any(1))):
            rate = hits.mean()
            error = (rate * (1 - rate) / len(hits)) ** 0.5
            print(
                f"{way:8} {name:6} {rate:.3f} ± {error:.3f}  n = {len(hits)}, {seconds:.2f} s each"
            )


if __name__ == "__main__":
    main()
