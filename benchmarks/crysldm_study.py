"""CrysLDM: its autoencoder on validation crystals, and quality and seconds against steps.

    python benchmarks/crysldm_study.py packed.npz test.npz --model crysldm --count 200

Prints two Markdown tables. Samples are of compositions that the model chooses, unfiltered, or with
`--told` one for each of `--count` crystals marked `val`, evenly spaced, of their composition.
Seconds are those of one core's CPU time, for 1,000 crystals.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from gpu_tables import FREE_METRICS, shown

import crysmetrics
from crysgen.checkpoints import load_model
from crysgen.diffusion.lattice import lattice_parameters
from crysgen.models.crysldm import CrysLDM
from crysgen.models.targets import Target
from crysgen.requests import Draw
from crysgen.sampling import plan_batches, sample
from crysgen.training.batch import Batch
from crysgen.training.data import training_sets
from crysmetrics.io import Crystals, read

TOLD_METRICS = "match_rate,rmse,struct_validity,emd_density"


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, path_type=Path))
@click.option("--model", "name", required=True, help="Name or path.")
@click.option("--count", default=200, show_default=True, help="Crystals of each row.")
@click.option("--steps", default="10,20,50,100", show_default=True)
@click.option("--noises", default="1,0", show_default=True, help="Factors of the latents' noise.")
@click.option("--annealing", help="Comma-separated factors; the model's own by default.")
@click.option("--told", is_flag=True, help="Sample compositions of validation crystals.")
def main(
    data: Path,
    reference: Path,
    name: str,
    count: int,
    steps: str,
    noises: str,
    annealing: str | None,
    told: bool,
) -> None:
    """Print the tables."""
    model = load_model(name)
    if not isinstance(model, CrysLDM):
        raise click.UsageError(f"{name} is no model of kind crysldm.")
    val = training_sets([data], None, 20)[1]
    click.echo(pd.DataFrame([autoencoder(model, val)]).to_markdown(index=False))
    rows, against = [], read(reference)
    if told:
        against = val = val[np.unique(np.linspace(0, len(val) - 1, count).round().astype(int))]
    metrics = TOLD_METRICS if told else FREE_METRICS
    factors = annealing.split(",") if annealing else [str(model.config.anti_annealing)]
    for factor in factors:
        for noise in noises.split(","):
            for number in steps.split(","):
                model.config = replace(
                    model.config, latent_noise=float(noise), anti_annealing=float(factor)
                )
                began = time.process_time()
                made = sampled(model, targets_of(val, count, told), int(number))
                seconds = time.process_time() - began
                if told:
                    made = replace(made, ids=against.ids)
                report = crysmetrics.evaluate(made, against, metrics=metrics.split(","), workers=1)
                rows.append(
                    {
                        "steps": number,
                        "noise of latents": noise,
                        "anti-annealing": factor,
                        "crystals": len(made),
                        **{k: shown(v.value, v.stderr) for k, v in report.metrics.items()},
                        "s per 1,000": round(1000 * seconds / len(made)),
                    }
                )
                click.echo(str(rows[-1]), err=True)
    click.echo("\n" + pd.DataFrame(rows).to_markdown(index=False))


def autoencoder(model: CrysLDM, crystals: Crystals) -> dict[str, float]:
    """Decode the mean latents of crystals, and compare.

    Returns:
        Share of atoms of the right type, of crystals with all atoms right, and the root mean square
        error of lattice lengths in Å and angles in degrees.
    """
    batch = Batch.from_crystals(crystals, torch.float32)
    found = model.decoded(model.encoded(batch), batch.frac_coords, batch.mask)
    right = (found.atomic_numbers == batch.atomic_numbers) | ~batch.mask
    wrong = (
        lattice_parameters(found.lattices) - lattice_parameters(batch.lattices.double())
    ).numpy()
    return {
        "crystals": len(crystals),
        "atoms of the right type": float(right[batch.mask].float().mean()),
        "crystals with all types right": float(right.all(1).float().mean()),
        "RMS error of lengths (Å)": float((wrong[:, :3] ** 2).mean() ** 0.5),
        "RMS error of angles (°)": float(np.degrees((wrong[:, 3:] ** 2).mean() ** 0.5)),
    }


def targets_of(crystals: Crystals, count: int, told: bool) -> list[Target]:
    """Make targets of the compositions of the first crystals, or of the model's choice."""
    if not told:
        return [Target(i) for i in range(count)]
    atoms = np.split(crystals.atomic_numbers, crystals.offsets[1:-1])
    return [Target(i, tuple(numbers.tolist())) for i, numbers in enumerate(atoms[:count])]


def sampled(model: CrysLDM, targets: list[Target], steps: int) -> Crystals:
    """Sample a crystal for each target, in order."""
    draws = [Draw(i, 0, target, i, 0) for i, target in enumerate(targets)]
    batches = plan_batches(draws, size_of=model.size_of)
    made = Crystals.concatenate(list(sample(model, batches, steps=steps, redraw_clashes=False)))
    return made[np.argsort([int(name) for name in made.ids])]


if __name__ == "__main__":
    main()
