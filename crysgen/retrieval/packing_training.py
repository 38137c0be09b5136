"""Trains what `packing` holds, on a library's own crystals."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysgen.retrieval.element_table import element_table
from crysgen.retrieval.entries import Entries
from crysgen.retrieval.packing import CENTRES, surroundings_of
from crysgen.retrieval.similarity_training import (
    TABLE_WIDTH,
    as_arrays,
    layers,
    slot_inputs,
    weights_of,
)

EPOCHS, BATCH, RATE, HIDDEN, NEIGHBOUR_WIDTH = 40, 128, 3e-3, 96, 8
MOST_KINDS = 6


class PackingNetwork(nn.Module):
    """What `Packing` holds, as something to be trained."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__()
        self.register_buffer("elements", elements)
        self.linear = nn.Linear(elements.shape[1], TABLE_WIDTH, bias=False)
        self.own = nn.Parameter(torch.zeros(len(elements), TABLE_WIDTH))
        self.near = nn.Linear(TABLE_WIDTH, NEIGHBOUR_WIDTH)
        inputs = 3 * TABLE_WIDTH + 3 + NEIGHBOUR_WIDTH * len(CENTRES)
        self.packing = layers(inputs, HIDDEN, HIDDEN, 1)
        last = cast(nn.Linear, self.packing[-1])
        nn.init.constant_(last.bias, 3.0)
        nn.init.normal_(last.weight, std=0.01)

    @property
    def table(self) -> Tensor:
        """(119, d) what is known of each element, and what is learned."""
        return self.linear(cast(Tensor, self.elements)) + self.own

    def forward(self, elements: Tensor, counts: Tensor, around: Tensor) -> Tensor:
        """(B,) logarithms of volumes an atom; slots of no atoms are padding."""
        own = self.table[elements]
        near = torch.einsum("bijr,bjm->birm", around, self.near(own)).flatten(2)
        inputs = torch.cat([slot_inputs(own, counts), near], -1)
        atomic = torch.exp(self.packing(inputs)[..., 0])
        return torch.log((atomic * counts).sum(1) / counts.sum(1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `load_packing` reads."""
        found = {"table": self.table, "near": self.near(self.table)}
        return as_arrays(found | weights_of(self, "packing"))


def padded(
    entries: Entries, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Elements (B, 6), counts (B, 6) and surroundings (B, 6, 6, R) of some entries."""
    elements = np.zeros((len(chosen), MOST_KINDS), dtype=np.int64)
    counts = np.zeros_like(elements)
    around = np.zeros((len(chosen), MOST_KINDS, MOST_KINDS, len(CENTRES)), dtype=np.float32)
    for row, i in enumerate(chosen.tolist()):
        k = int(entries.kinds[i])
        elements[row, :k], counts[row, :k] = entries.slots(i), entries.counts(i)
        lattice = entries.lattices[i].astype(np.float64)
        around[row, :k, :k] = surroundings_of(lattice, entries.frac(i), entries.counts(i))
    return elements, counts, around


def train_packing(entries: Entries, seed: int = 0, epochs: int = EPOCHS) -> PackingNetwork:
    """Volumes of a library's crystals of up to six elements, from composition and structure."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= MOST_KINDS)
    elements, counts, around = (torch.tensor(a) for a in padded(entries, chosen))
    volumes = np.abs(np.linalg.det(entries.lattices[chosen].astype(np.float64)))
    goals = torch.tensor(np.log(volumes / counts.sum(1).numpy()), dtype=torch.float32)
    hull = entries.e_above_hull[chosen].astype(np.float64)
    trust = np.where(hull > 0.15, 0.3, 1.0) * np.where(entries.source[chosen] > 0, 0.6, 1.0)
    weights = torch.tensor(trust, dtype=torch.float32)
    model = PackingNetwork(torch.tensor(element_table(), dtype=torch.float32))
    others = [p for name, p in model.named_parameters() if name != "own"]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 1e-3}, {"params": [model.own], "weight_decay": 0.02}],
        lr=RATE,
    )
    steps = epochs * -(-len(chosen) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps + 1, pct_start=0.1
    )
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(chosen)).split(BATCH):
            kinds = int((counts[batch] > 0).sum(1).max())
            found = model(
                elements[batch, :kinds], counts[batch, :kinds], around[batch, :kinds, :kinds]
            )
            errors = nn.functional.huber_loss(found, goals[batch], reduction="none", delta=0.05)
            loss = 20 * (weights[batch] * errors).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"packing, epoch {epoch + 1}: loss {total / len(chosen):.4f}", flush=True)
    return model.eval()
