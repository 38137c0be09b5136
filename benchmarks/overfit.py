"""Whether a generator can learn a few crystals by heart: trained on them alone, then sampled.

    python benchmarks/overfit.py packed.npz --minutes 25
    python benchmarks/overfit.py packed.npz --kind crysldm --count 16 --minutes 10

The crystals are drawn from `train`, each of a composition of its own, so that a composition says
which one is meant; a generator that can learn at all gives nearly all of them back. Prints the
match rate of its samples, and of GemsDiff, for some steps, how much of the noise the network takes
out.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from crysgen.checkpoints import load_model
from crysgen.diffusion.torus import remove_mean
from crysgen.models import model_class
from crysgen.models.targets import Target
from crysgen.training.batch import Batch
from crysgen.training.configs import load_config
from crysgen.training.data import training_sets
from crysgen.training.trainer import Trainer
from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances

CHANGES: dict[str, tuple[dict[str, float], ...]] = {
    "gemsdiff": tuple({"cell_noise": n, "position_noise": n} for n in (0.0, 0.5, 1.0)),
    "crysldm": tuple({"latent_noise": n} for n in (0.0, 1.0)),
}
"""What is varied when sampling, by kind of model."""
NETWORK = {
    "channels": 96,
    "pair_channels": 48,
    "triangle_channels": 24,
    "layers": 3,
    "radial": 16,
    "k": 32,
}
SHOWN = (10, 20, 30, 40, 50, 60, 70, 80, 100)


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--kind", type=click.Choice(list(CHANGES)), default="gemsdiff", show_default=True)
@click.option("--count", default=64, show_default=True, help="Crystals.")
@click.option("--max-atoms", default=8, show_default=True, help="Of each.")
@click.option("--minutes", default=25.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data: Path, kind: str, count: int, max_atoms: int, minutes: float, seed: int) -> None:
    """Train, and say what was learnt."""
    torch.set_num_threads(1)
    train, _ = training_sets([data], None, 20)
    crystals = chosen(train, count, max_atoms, seed)
    settings = {
        "minutes": minutes,
        "batch_atoms": 320,
        "val_minutes": minutes / 5,
        "decay_share": 0.5,
        "learning_rate": 2e-3,
        "ema": 0.995,
    }
    config, training = load_config(kind, "default", settings)
    if kind == "gemsdiff":
        config = replace(config, network_settings=NETWORK)
    with tempfile.TemporaryDirectory() as name:
        Trainer(model_class(kind), config, training, Path(name), crystals, crystals).run(show=True)
        model = load_model(Path(name))
    if kind == "gemsdiff":
        batch = Batch.from_crystals(crystals, torch.float32)
        with torch.no_grad():
            for step in SHOWN:
                print(explained(model, batch, step))
    targets = [
        Target(seed, tuple(crystal.atomic_numbers.tolist()))
        for seed, crystal in enumerate(crystals)
    ]
    for change in CHANGES[kind]:
        model.config = replace(model.config, **change)
        made = model.sample(targets).to_crystals(list(crystals.ids))
        pairs = np.repeat(np.arange(len(crystals))[:, None], 2, axis=1)
        distances = rms_distances(made, crystals, pairs)
        hit = np.isfinite(distances)
        error = float(np.sqrt(hit.mean() * (1 - hit.mean()) / len(hit)))
        print(
            f"{change}: match rate {hit.mean():.3f} ± {error:.3f}, RMSE {distances[hit].mean():.3f}"
        )


def chosen(crystals: Crystals, count: int, max_atoms: int, seed: int) -> Crystals:
    """Crystals of different compositions, with 2 to `max_atoms` atoms."""
    fits = np.flatnonzero((crystals.num_atoms > 1) & (crystals.num_atoms <= max_atoms))
    seen: set[tuple[int, ...]] = set()
    rows = []
    for row in np.random.default_rng(seed).permutation(fits).tolist():
        first, last = crystals.offsets[row : row + 2]
        atoms = tuple(sorted(crystals.atomic_numbers[first:last].tolist()))
        if atoms not in seen and len(rows) < count:
            seen.add(atoms)
            rows.append(row)
    return crystals[rows]


def explained(model: Any, batch: Batch, step: int) -> str:
    """How large the errors at a step are, as a share of the noise that is there."""
    generator = torch.Generator().manual_seed(step)
    steps = torch.full((len(batch),), step)
    vectors = model.cells.encode(batch.lattices, batch.num_atoms)
    draw = torch.randn(vectors.shape, generator=generator)
    moves = torch.randn(batch.frac_coords.shape, generator=generator)
    noisy = model.of_cells.noised(vectors, steps, draw)
    frac, wanted = model.of_positions.noised(batch.frac_coords, batch.atomic_numbers, steps, moves)
    displacement, cell = model.predict(batch.atomic_numbers, frac, noisy, steps)
    wanted = remove_mean(wanted, batch.mask)
    left = remove_mean(wanted - displacement, batch.mask)
    positions = float(left.norm() / wanted.norm())
    sigma = float(model.of_cells.schedule.sigma(steps[:1]))
    cells = float((cell - vectors).square().mean().sqrt()) / max(sigma, 1e-9)
    spread = float(model.of_positions.unknown(steps[:1]))
    return (
        f"step {step}: displacements of {spread:.3f}, left {positions:.2f}; "
        f"of cells {sigma:.3f}, left {cells:.2f}"
    )


if __name__ == "__main__":
    main()
