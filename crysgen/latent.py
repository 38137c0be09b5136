"""The latent space of a model: crystals into vectors, vectors as targets, ways between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from crysgen.models.targets import Target
from crysgen.training.batch import Batch

if TYPE_CHECKING:
    from crysmetrics.io import Crystals

_ATOMS_AT_ONCE = 4096


def encode(model: Any, crystals: Crystals) -> NDArray[np.float32]:
    """Encode crystals, in the cells in which they stand.

    Args:
        model: that is `Encodes`, on its device.
        crystals: B of them.

    Returns:
        (B, D) latent vectors.
    """
    order = np.argsort(-crystals.num_atoms, kind="stable")
    found = np.zeros((len(crystals), model.config.latent_channels), dtype=np.float32)
    start = 0
    while start < len(order):
        size = int(crystals.num_atoms[order[start]])
        rows = order[start : start + max(1, _ATOMS_AT_ONCE // size)]
        batch = Batch.from_crystals(crystals[rows], torch.float32).to(model.device)
        found[rows] = model.encode(batch).float().cpu().numpy()
        start += len(rows)
    return found


def targets_of(
    latents: NDArray[np.floating], seeds: Sequence[int], model: Any = None
) -> list[Target]:
    """Make targets of latent vectors (B, D).

    Args:
        latents: (B, D).
        seeds: B.
        model: that predicts numbers of atoms, so that batches are of similar sizes.
    """
    sizes: list[int | None] = [None] * len(latents)
    if model is not None:
        vectors = torch.as_tensor(latents, dtype=torch.float32, device=model.device)
        sizes = model.sizes(vectors).tolist()
    return [
        Target(seed, num_atoms=size, latent=tuple(vector))
        for seed, size, vector in zip(seeds, sizes, latents.tolist(), strict=True)
    ]


def latent_targets(model: Any, crystals: Crystals, seeds: Sequence[int]) -> list[Target]:
    """Make targets that reconstruct crystals: their latent vectors, decoded."""
    return targets_of(encode(model, crystals), seeds, model)
