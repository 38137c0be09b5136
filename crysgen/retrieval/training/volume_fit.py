"""Goals, weights of entries and the training loop that both kinds of volume networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysgen.retrieval.library.entries import Entries

_FAR_ABOVE_HULL = 0.15
"""Distance above the hull in eV/atom beyond which volumes of entries count less."""


def volume_goals(entries: Entries, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Collect log-volumes an atom (B,) of some entries in ln Å³, and their weights (B,)."""
    volumes = np.abs(np.linalg.det(entries.lattices[chosen].astype(np.float64)))
    hull = entries.e_above_hull[chosen].astype(np.float64)
    trust = np.where(hull > _FAR_ABOVE_HULL, 0.3, 1.0)
    trust *= np.where(entries.source[chosen] > 0, 0.6, 1.0)
    goals = np.log(volumes / entries.num_atoms[chosen])
    return torch.tensor(goals, dtype=torch.float32), torch.tensor(trust, dtype=torch.float32)


def fit_volumes(
    model: nn.Module,
    predict: Callable[[Tensor], Tensor],
    goals: Tensor,
    weights: Tensor,
    *,
    epochs: int,
    batch_size: int,
    rate: float,
    title: str,
) -> None:
    """Train a network with a parameter `own` (what is learned of each element, decayed more).

    Args:
        model: the network.
        predict: (b,) logarithms of volumes for the rows (b,) of a batch.
        goals: (B,) see `volume_goals`.
        weights: (B,) of the entries.
        epochs: over all entries.
        batch_size: entries.
        rate: highest learning rate.
        title: of the lines that are printed.
    """
    own = cast(nn.Parameter, model.own)
    others = [p for name, p in model.named_parameters() if name != "own"]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 1e-3}, {"params": [own], "weight_decay": 0.02}],
        lr=rate,
    )
    steps = epochs * -(-len(goals) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps + 1, pct_start=0.1
    )
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(goals)).split(batch_size):
            errors = nn.functional.huber_loss(
                predict(batch), goals[batch], reduction="none", delta=0.05
            )
            loss = 20 * (weights[batch] * errors).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"{title}, epoch {epoch + 1}: loss {total / len(goals):.4f}", flush=True)
