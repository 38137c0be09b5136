"""Match rate of `val` compositions by a model, with their true space groups given and without.

    python benchmarks/space_group_study.py packed_sites.npz --count 100 --steps 50

`packed_sites.npz` is what `python -m crysgen.training.site_data` packs. Prints, for both ways, the
share of compositions of which one sample matches, and of which one of several does, its standard
error, and seconds a structure; results of each part are kept, so that it goes on where it ended.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import torch

from crysgen.checkpoints import load_model
from crysgen.models.targets import Target
from crysgen.requests import Draw
from crysgen.sampling import sample
from crysgen.training.site_data import NUM_SITES, SPACE_GROUP
from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances

PART = 20
"""Compositions that are sampled together."""
WAYS = ("with", "without")


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="gemsdiff-mp-v2", show_default=True)
@click.option("--count", default=100, show_default=True, help="Compositions.")
@click.option("--samples", default=1, show_default=True, help="Of each.")
@click.option("--steps", default=50, show_default=True)
@click.option("--parts", default=1000, help="Of the work that are done now.")
@click.option("--ways", default=",".join(WAYS), help="Which of the two.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A JSON.")
def main(
    data: Path, model: str, count: int, samples: int, steps: int, parts: int, ways: str,
    output: Path,
) -> None:  # fmt: skip
    """Sample, match, and print both rates."""
    torch.set_num_threads(1)
    crystals = Crystals.load(data)
    val = np.flatnonzero(crystals.properties["split"] == "val")
    rng = np.random.default_rng(0)
    chosen = crystals[np.sort(rng.choice(val, min(count, len(val)), replace=False))]
    kept = json.loads(output.read_text()) if output.exists() else {}
    network = load_model(model, "cpu")
    for way in ways.split(","):
        for begin in range(0, len(chosen), PART):
            key = f"{way} {begin}"
            if key in kept or parts <= 0:
                continue
            part, parts = chosen[np.arange(begin, min(begin + PART, len(chosen)))], parts - 1
            started = time.process_time()
            matched = matches(network, part, way == "with", samples, steps)
            kept[key] = {"matched": matched, "seconds": time.process_time() - started}
            output.write_text(json.dumps(kept))
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


def matches(
    network: torch.nn.Module, part: Crystals, told: bool, samples: int, steps: int
) -> list[list[int]]:
    """Return 0 or 1 for each sample of each composition."""
    draws = []
    for i in range(len(part)):
        atoms = tuple(part[i].atomic_numbers.tolist())
        group = int(part.properties[SPACE_GROUP][i]) if told else None
        for k in range(samples):
            target = Target(1000 * int(part.properties[NUM_SITES][i]) + k, atoms)
            target = Target(target.seed + 7919 * i, atoms, space_group=group)
            draws.append(Draw(len(draws), i, target, k, 0))
    made = Crystals.concatenate(
        list(sample(network, [draws], steps=steps, device="cpu", workers=1))
    )
    numbers = np.array([int(name) for name in made.ids])
    rms = rms_distances(made, part, np.stack([np.arange(len(made)), numbers // samples], 1))
    hits = np.zeros((len(part), samples), dtype=int)
    hits.flat[numbers] = np.isfinite(rms)
    return hits.tolist()


if __name__ == "__main__":
    main()
