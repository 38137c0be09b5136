"""Reconstruction by a model with a latent space: quality against calls of the decoder.

    crysgen train cdvae --data packed.npz --config mp20 -o run/
    python benchmarks/latent_study.py packed.npz --model run/ --way langevin:5000

One reconstruction for each crystal, with the same seeds for each way: `renoised`, `ancestral`,
`deterministic` or `langevin` (Algorithm 1 of CDVAE, types by the likeliest) with so many calls.
Atoms get the composition that z predicts as the model is set, for `langevin` not; `+exact` after
the number says that they do, `+free` that they don't. Of packed crystals those marked `val` are
taken.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pandas as pd

import crysmetrics
from crysgen.latent import decode, encode, load_autoencoder
from crysgen.models.cdvae_config import Sampler
from crysgen.training.data import SPLIT, canonical
from crysmetrics.io import Crystals, read

WAYS = ("renoised:100", "ancestral:100", "deterministic:100", "renoised:500", "langevin:500")
METRICS = ("match_rate", "rmse", "struct_validity", "comp_validity", "emd_density")


@click.command()
@click.argument("crystals", type=click.Path(exists=True, path_type=Path))
@click.option("--model", "name", default="cdvae", show_default=True)
@click.option("--way", "ways", multiple=True, default=WAYS, show_default=True)
@click.option("--limit", type=int, help="Crystals, drawn at random; all by default.")
@click.option("--max-atoms", type=int, help="Larger crystals are left out.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--workers", default=1, show_default=True)
def main(
    crystals: Path,
    name: str,
    ways: tuple[str, ...],
    limit: int | None,
    max_atoms: int | None,
    seed: int,
    device: str,
    workers: int,
) -> None:
    """Print a Markdown table with a row for each way."""
    model = load_autoencoder(name, device)
    wanted = chosen(read(crystals), limit, max_atoms)
    vectors = encode(model, wanted)
    sizes = model.sizes(as_tensor(vectors, device)).cpu().numpy()
    right = np.mean(sizes == wanted.num_atoms)
    click.echo(f"{len(wanted)} crystals; numbers of atoms right for {right:.3f}")
    rows, own = [], model.config
    for text in ways:
        model.config = replace(own, **settings_of(text, own.levels))
        started = time.perf_counter()
        made = decode(model, vectors, wanted.ids, seed=seed, workers=workers)
        seconds = time.perf_counter() - started
        report = crysmetrics.evaluate(made, wanted, metrics=METRICS, workers=workers)
        rows.append(
            {
                "way": text,
                "crystals": len(made),
                "composition right": f"{same_compositions(made, wanted):.3f}",
                **{key: shown(value) for key, value in report.metrics.items()},
                "s": f"{seconds:.1f}",
            }
        )
        click.echo(str(rows[-1]))
    click.echo(pd.DataFrame(rows).to_markdown(index=False))


def chosen(crystals: Crystals, limit: int | None, max_atoms: int | None) -> Crystals:
    """Take the crystals of `val`, of at most so many atoms, in canonical cells."""
    if SPLIT in crystals.properties:
        crystals = crystals[crystals.properties[SPLIT] == "val"]
    else:
        crystals = canonical(crystals)
    if max_atoms is not None:
        crystals = crystals[crystals.num_atoms <= max_atoms]
    if limit is not None:
        crystals = crystals[np.sort(np.random.default_rng(0).permutation(len(crystals))[:limit])]
    return crystals


def settings_of(text: str, levels: int) -> dict[str, Any]:
    """Return the settings of sampling that a way stands for."""
    way, _, composition = text.partition("+")
    sampler, _, calls = way.partition(":")
    known = get_args(Sampler)
    whole = calls.isdecimal() and int(calls) % levels == 0
    if sampler not in known or not whole or composition not in ("", "exact", "free"):
        raise click.UsageError(
            f"{text}: a way is a sampler ({', '.join(known)}), a colon and calls, a multiple of "
            f"{levels} levels, then +exact, +free or nothing."
        )
    settings = {
        "sampler": sampler,
        "steps_per_level": int(calls) // levels,
        "type_steps": "likeliest" if sampler == "langevin" else "drawn",
    }
    if composition or sampler == "langevin":
        settings["predicted_composition"] = composition == "exact"
    return settings


def same_compositions(made: Crystals, wanted: Crystals) -> float:
    """Share of crystals whose atoms are those that were encoded."""
    counts = dict(zip(made.ids, made.element_counts, strict=True))
    pairs = zip(wanted.ids, wanted.element_counts, strict=True)
    return float(np.mean([name in counts and (counts[name] == own).all() for name, own in pairs]))


def as_tensor(vectors: np.ndarray, device: str) -> Any:
    """Put vectors on a device."""
    import torch

    return torch.as_tensor(vectors, device=device)


def shown(value: Any) -> str:
    """Show a metric with its standard error."""
    if value.value is None:
        return ""
    return f"{value.value:.3f}" + (f" ± {value.stderr:.3f}" if value.stderr is not None else "")


if __name__ == "__main__":
    main()
