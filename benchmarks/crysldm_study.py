"""CrysLDM: its autoencoder on validation crystals, and quality and seconds against steps.

    python benchmarks/crysldm_study.py packed.npz test.npz --model crysldm --count 200

Prints two Markdown tables. Samples are of compositions that the model chooses, unfiltered; seconds
are those of one core's CPU time, for 1,000 crystals.
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


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, path_type=Path))
@click.option("--model", "name", required=True, help="Name or path.")
@click.option("--count", default=200, show_default=True, help="Crystals of each row.")
@click.option("--steps", default="10,20,50,100", show_default=True)
@click.option("--noises", default="1,0", show_default=True, help="Factors of the latents' noise.")
@click.option("--annealing", help="Comma-separated factors; the model's own by default.")
def main(
    data: Path,
    reference: Path,
    name: str,
    count: int,
    steps: str,
    noises: str,
    annealing: str | None,
) -> None:
    """Print the tables."""
    model = load_model(name)
    if not isinstance(model, CrysLDM):
        raise click.UsageError(f"{name} is no model of kind crysldm.")
    val = training_sets([data], None, 20)[1]
    click.echo(pd.DataFrame([autoencoder(model, val)]).to_markdown(index=False))
    against, rows = read(reference), []
    factors = annealing.split(",") if annealing else [str(model.config.anti_annealing)]
    for factor in factors:
        for noise in noises.split(","):
            for number in steps.split(","):
                model.config = replace(
                    model.config, latent_noise=float(noise), anti_annealing=float(factor)
                )
                began = time.process_time()
                made = free(model, count, int(number))
                seconds = time.process_time() - began
                report = crysmetrics.evaluate(
                    made, against, metrics=FREE_METRICS.split(","), workers=1
                )
                rows.append(
                    {
                        "steps": number,
                        "noise of latents": noise,
                        "anti-annealing": factor,
                        "crystals": len(made),
                        **{k: shown(v.value, v.stderr) for k, v in report.metrics.items()},
                        "s per 1,000": round(1000 * seconds / count),
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


def free(model: CrysLDM, count: int, steps: int) -> Crystals:
    """Sample crystals of the model's choice."""
    draws = [Draw(i, 0, Target(i), i, 0) for i in range(count)]
    batches = plan_batches(draws, size_of=model.size_of)
    return Crystals.concatenate(list(sample(model, batches, steps=steps, redraw_clashes=False)))


if __name__ == "__main__":
    main()
