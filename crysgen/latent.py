"""The latent space of a model: crystals into vectors, vectors into crystals, ways between them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from crysgen.models.targets import Target
from crysgen.requests import Draw, derived_seed
from crysgen.training.batch import Batch
from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    from crysgen.kept_decodings import KeptDecodings
    from crysmetrics.io import Crystals

DEFAULT_MODEL = "cdvae"
"""Kind of the model that is taken where none is named."""
_ATOMS_AT_ONCE = 4096

Vectors = NDArray[np.float32]


def load_autoencoder(name: str | None, device: str) -> Any:
    """Load a model with a latent space.

    Args:
        name: see `crysgen.checkpoints.load_model`; None for the newest CDVAE.
        device: where it computes.

    Raises:
        UserError: if there is no such model, or it has no latent space.
    """
    from crysgen.checkpoints import load_model
    from crysgen.models.base import Encodes

    model = load_model(DEFAULT_MODEL if name is None else name, device)
    if not isinstance(model, Encodes):
        raise UserError(f"A model of kind {model.kind} has no latent space.")
    return model


def encode(model: Any, crystals: Crystals) -> Vectors:
    """Encode crystals, in the cells in which they stand.

    Args:
        model: that is `Encodes`, on its device.
        crystals: B of them, one at least.

    Returns:
        (B, D) latent vectors.
    """
    order = np.argsort(-crystals.num_atoms, kind="stable")
    parts = []
    start = 0
    while start < len(order):
        size = int(crystals.num_atoms[order[start]])
        rows = order[start : start + max(1, _ATOMS_AT_ONCE // size)]
        batch = Batch.from_crystals(crystals[rows], torch.float32).to(model.device)
        parts.append(model.encode(batch).float().cpu().numpy())
        start += len(rows)
    found: Vectors = np.concatenate(parts)[np.argsort(order)]
    return found


def targets_of(latents: Vectors, seeds: Sequence[int], model: Any) -> list[Target]:
    """Make targets of latent vectors (B, D), with the numbers of atoms that a model predicts.

    Args:
        latents: (B, D).
        seeds: B.
        model: that is `Encodes`.
    """
    vectors = torch.as_tensor(latents, dtype=torch.float32, device=model.device)
    return [
        Target(seed, num_atoms=size, latent=tuple(vector))
        for seed, size, vector in zip(
            seeds, model.sizes(vectors).tolist(), latents.tolist(), strict=True
        )
    ]


def latent_targets(model: Any, crystals: Crystals, seeds: Sequence[int]) -> list[Target]:
    """Make targets that reconstruct crystals: their latent vectors, decoded."""
    return targets_of(encode(model, crystals), seeds, model)


def decode(
    model: Any,
    latents: Vectors,
    ids: Sequence[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    title: str = "Decoding",
    kept: KeptDecodings | None = None,
) -> Crystals:
    """Decode latent vectors.

    Args:
        model: that is `Encodes`.
        latents: (B, D).
        ids: B distinct names, from which with `seed` the random numbers of each follow.
        seed: of all.
        steps: of the model; its own number by default.
        workers: cores; all by default.
        batch_size: crystals made together.
        title: of the progress.
        kept: where finished batches are kept, and those of a killed call are found again.

    Returns:
        Crystals in the order of `ids`; those that could not be made are failures.
    """
    from crysgen.sampling import plan_batches, sample
    from crysmetrics.io import Crystals, Failure
    from crysmetrics.parallel import cpu_count
    from crysmetrics.progress import task

    seeds = [derived_seed(seed, (), name) for name in ids]
    targets = targets_of(latents, seeds, model)
    draws = [Draw(i, 0, target, i, target.seed) for i, target in enumerate(targets)]
    device, cores = str(model.device), cpu_count(workers)
    planned = steps or model.default_steps
    parts = [] if kept is None else kept.begin(_request(model, latents, ids, seed, steps))
    done = {int(name) for part in parts for name in _names(part)}
    # All are planned, whatever is done already: another plan would round otherwise.
    batches = [
        [draw for draw in batch if draw.number not in done]
        for batch in plan_batches(draws, device, batch_size, cores, model.size_of)
    ]
    with task(title, len(draws) * planned) as advance:
        advance(len(done) * planned)
        for part in sample(
            model,
            [batch for batch in batches if batch],
            steps=steps,
            device=device,
            workers=cores,
            advance=advance,
            unfinished=None if kept is None else kept.states,
            redraw_clashes=False,  # what a latent vector stands for is not chosen
        ):
            parts.append(part)
            if kept is not None:
                kept.add(part)
    made = Crystals.concatenate(parts)
    failures = [Failure(ids[int(f.file)], f.reason) for f in made.failures]
    made = made[np.argsort([int(name) for name in made.ids])]
    found = made.with_ids([ids[int(name)] for name in made.ids])
    return found.with_failures(failures)


def _request(
    model: Any, latents: Vectors, ids: Sequence[str], seed: int, steps: int | None
) -> list[Any]:
    """List what decides the crystals of a decoding."""
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().float().cpu().numpy().tobytes())
    points = hashlib.sha256(np.ascontiguousarray(latents, np.float32).tobytes())
    config = model.config.to_json()
    return [weights.hexdigest(), config, points.hexdigest(), list(ids), seed, steps]


def _names(part: Crystals) -> list[str]:
    """List the names of crystals made, and of those that could not be."""
    return [*part.ids, *(failure.file for failure in part.failures)]


def between(first: Vectors, last: Vectors, points: int) -> Vectors:
    """Interpolate latent vectors (D,) linearly: (points, D), both ends included.

    Raises:
        UserError: for fewer than two points.
    """
    if points < 2:
        raise UserError("A way has two points at least.")
    shares = np.linspace(0, 1, points, dtype=np.float32)[:, None]
    return (1 - shares) * first + shares * last


def save_latents(model: Any, latents: Vectors, ids: Sequence[str], path: Path) -> None:
    """Write latent vectors with all that the model reads from them, as one `.npz`.

    Args:
        model: that is `Encodes`.
        latents: (B, D).
        ids: B.
        path: of the file.
    """
    vectors = torch.as_tensor(latents, dtype=torch.float32, device=model.device)
    arrays = {
        "ids": np.array(list(ids), dtype=np.str_),
        "latents": latents,
        "num_atoms": model.sizes(vectors).cpu().numpy(),
    }
    if getattr(model.config, "property_std", 0):
        with torch.no_grad():
            arrays[model.config.property_name] = model.property_of(vectors).float().cpu().numpy()
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
