"""Train the networks of `scoring.similarity` on a library's own crystals.

Every crystal in turn is taken out of the library, and those of other compounds support its
structure. The loss is the logarithm of the share of support for site mappings that match a
prototype it belongs to. `train_similarity` is the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysgen.retrieval.library.anonymous import Counts
from crysgen.retrieval.library.entries import Entries
from crysgen.retrieval.library.groups import AnonymousFormulaGroup
from crysgen.retrieval.scoring.plausibility import layers
from crysgen.retrieval.scoring.similarity import ENTRY_FEATURES, entry_features
from crysgen.retrieval.training.element_table import element_table

if TYPE_CHECKING:
    from crysgen.retrieval.scoring.similarity import Similarity

TABLE_WIDTH = 32
"""Width of the features of elements."""
POINT_WIDTH = 48
"""Dimensions of the points that species become."""
HIDDEN = 128
"""Width of hidden layers."""
EPOCHS = 10
"""Number of passes over the entries."""
LEARNING_RATE = 3e-3
"""Highest learning rate."""
BATCH = 256
"""Number of entries of a step, at most."""
HOPELESS = 0.002
"""Share of support below which matching makes no difference to the loss."""
STRICT_SHARE = 0.4
"""Share of the loss that asks for the right space group as well."""
MAPPINGS_AT_ONCE = 3_000_000
"""Number of distances of species that a step computes, at most."""


class ElementFeatures(nn.Module):
    """Features of elements: a linear map of known properties, and what is learned of each element.

    Args:
        elements: (119, f) known properties, see `element_table`.
    """

    def __init__(self, elements: Tensor) -> None:
        super().__init__()
        self.register_buffer("elements", elements)
        self.linear = nn.Linear(elements.shape[1], TABLE_WIDTH, bias=False)
        self.own = nn.Parameter(torch.zeros(len(elements), TABLE_WIDTH))

    @property
    def table(self) -> Tensor:
        """(119, d) features of each element."""
        return self.linear(cast(Tensor, self.elements)) + self.own


class Networks(ElementFeatures):
    """Trainable form of `scoring.similarity.CompoundMetric`."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__(elements)
        inputs = 3 * TABLE_WIDTH + 3
        self.skip = nn.Linear(TABLE_WIDTH, POINT_WIDTH, bias=False)
        self.points = layers(inputs, HIDDEN, HIDDEN, POINT_WIDTH)
        nn.init.normal_(cast(nn.Linear, self.points[-1]).weight, std=0.02)
        self.bias = layers(ENTRY_FEATURES, 32, 1)
        last = cast(nn.Linear, self.bias[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.log_sharpness = nn.Parameter(torch.tensor(0.0))

    def inputs(self, elements: Tensor, counts: Counts) -> tuple[Tensor, Tensor]:
        """Look up features (B, k, d) of species, and inputs that add the rest of the compound."""
        own = nn.functional.dropout(self.table[elements], 0.1, self.training)
        return own, species_inputs(own, torch.tensor(counts)[None].expand(len(own), -1))

    def embed(self, elements: Tensor, counts: Counts) -> Tensor:
        """Map species to points (B, k, D)."""
        own, inputs = self.inputs(elements, counts)
        return self.skip(own) + self.points(inputs)

    def logits(self, group: GroupTensors, elements: Tensor) -> Tensor:
        """Compute logits (B, g, P) as `AnonymousFormulaGroup.logits` does."""
        own = self.embed(elements, group.counts)
        points = self.embed(group.elements, group.counts)
        square = (own**2).sum(-1)[:, None, :, None] + (points**2).sum(-1)[None, :, None, :]
        square = square - 2 * torch.einsum("bsd,gtd->bgst", own, points)
        species = torch.arange(own.shape[1])
        cases = [square[..., species, case].sum(-1) for case in group.permutations]
        distances = torch.stack(cases, -1).clamp(min=0)
        bias = self.bias(group.features)[None, :, :]
        return -torch.exp(self.log_sharpness) * distances + bias

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Collect what `load_similarity` reads, but for the volumes."""
        found = {"table": self.table, "skip": self.skip.weight}
        found |= weights_of(self.points, "points") | weights_of(self.bias, "bias")
        found["temperature"] = torch.exp(-self.log_sharpness)
        return as_arrays(found)


def species_inputs(own: Tensor, counts: Tensor) -> Tensor:
    """Compute (B, k, f) as `scoring.similarity.species_inputs`; species of no atoms are padding."""
    amounts = counts.to(own.dtype)
    shares = (amounts / amounts.sum(1, keepdim=True))[..., None]
    mean = (own * shares).sum(1, keepdim=True)
    spread = ((own - mean) ** 2 * shares).sum(1, keepdim=True)
    kinds = (counts > 0).sum(1)[:, None, None].to(own.dtype) / 3
    divisors = torch.from_numpy(np.gcd.reduce(counts.numpy(), axis=1)).to(own.dtype)
    reduced = torch.log((amounts / divisors[:, None]).clamp(min=1.0)) / 2
    parts = [own, mean.expand_as(own), spread.expand_as(own), shares]
    parts += [kinds.expand_as(shares), reduced[..., None]]
    return torch.cat(parts, -1)


def weights_of(network: nn.Sequential, name: str) -> dict[str, Tensor]:
    """Collect weights and biases of layers, by the names under which they are stored."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = {f"{name}.weight.{i}": layer.weight for i, layer in enumerate(linear)}
    return weights | {f"{name}.bias.{i}": layer.bias for i, layer in enumerate(linear)}


def as_arrays(found: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Convert tensors to the arrays that are stored."""
    return {key: value.detach().numpy().astype(np.float32) for key, value in found.items()}


@dataclass(frozen=True)
class GroupTensors:
    """An `AnonymousFormulaGroup` as tensors.

    Attributes:
        columns: (g, columns) whether an entry laid onto itself has a column.
        home: (g * P,) the column of each site mapping with its first representative.
        space_groups: (g,) numbers.
    """

    counts: Counts
    elements: Tensor
    permutations: NDArray[np.int64]
    features: Tensor
    weights: Tensor
    columns: NDArray[np.bool_]
    home: NDArray[np.int64]
    space_groups: Tensor

    @classmethod
    def of(cls, group: AnonymousFormulaGroup) -> GroupTensors:
        """Collect the tensors of a group."""
        entries, members, theoretical = group.entries, group.members, group.theoretical
        hull = entries.e_above_hull[members].astype(np.float32)
        groups = entries.space_groups[members]
        bound = entries.hull_estimate[members].astype(np.float32)
        features = entry_features(hull, bound, theoretical, groups)
        # What one asks for is more often like the Materials Project and near the hull.
        above = np.fmax(hull, bound) > 0.15
        weights = np.where(theoretical, 0.5, 1.0) * np.where(above, 0.3, 1.0)
        cases = len(group.permutations)
        table = group.columns_of_mappings
        home = np.zeros(table.shape[0], dtype=np.int64)
        filled = np.diff(table.indptr) > 0
        home[filled] = table.indices[table.indptr[:-1][filled]]
        columns = table[np.arange(len(group)) * cases].toarray() > 0
        return cls(
            group.counts,
            torch.tensor(group.elements),
            group.permutations,
            torch.tensor(features),
            torch.tensor(weights, dtype=torch.float32),
            columns,
            home,
            torch.tensor(groups.astype(np.int64)),
        )

    def batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Divide the entries into those of each step, in random order."""
        size, kinds = len(self.elements), len(self.counts)
        each = size * len(self.permutations) * kinds**2
        step = max(8, min(BATCH, MAPPINGS_AT_ONCE // each))
        order = rng.permutation(size)
        return (order[start : start + step] for start in range(0, size, step))


def train(entries: Entries, seed: int = 0, epochs: int = EPOCHS) -> Networks:
    """Train a metric on a library.

    Args:
        entries: with their matches.
        seed: of initial weights, dropout and the order of queries.
        epochs: how often each crystal is asked for.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    networks = Networks(torch.tensor(element_table(), dtype=torch.float32))
    no_similarity = cast("Similarity", None)
    groups = [
        GroupTensors.of(AnonymousFormulaGroup(entries, counts, no_similarity))
        for counts, members in entries.by_counts.items()
        if len(members) > 1
    ]
    steps = epochs * sum(1 for group in groups for _ in group.batches(rng))
    others = [p for name, p in networks.named_parameters() if name != "own"]
    optimizer = torch.optim.AdamW(
        [
            {"params": others, "weight_decay": 1e-4},
            {"params": [networks.own], "weight_decay": 0.05},
        ],
        lr=LEARNING_RATE,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1
    )
    for epoch in range(epochs):
        todo = [(group, batch) for group in groups for batch in group.batches(rng)]
        total = weight = 0.0
        for i in rng.permutation(len(todo)):
            group, batch = todo[i]
            loss, amount = _loss(networks, group, batch)
            (loss / 64).backward()
            nn.utils.clip_grad_norm_(networks.parameters(), 2.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total, weight = total + loss.item(), weight + amount
        print(f"epoch {epoch + 1}: loss {total / weight:.4f}", flush=True)
    return networks.eval()


def _loss(
    networks: Networks, group: GroupTensors, batch: NDArray[np.int64]
) -> tuple[Tensor, float]:
    """Compute the loss of some entries, and their weight."""
    elements = group.elements[batch]
    logits = networks.logits(group, elements)
    cases = len(group.permutations)
    is_match = torch.tensor(group.columns[batch][:, group.home].reshape(len(batch), -1, cases))
    # Other structures of the compound itself say nothing about what neighbours are worth.
    same = (elements[:, None] == group.elements[None]).all(-1)[:, :, None].expand_as(logits)
    shares = torch.log_softmax(logits.masked_fill(same, -1e9).flatten(1), 1)
    symmetric = group.space_groups[batch][:, None] == group.space_groups[None]
    is_match = is_match & ~same
    # The matcher takes zinc blende for rock salt; those of the same symmetry are right indeed.
    goals = ((1 - STRICT_SHARE, is_match), (STRICT_SHARE, is_match & symmetric[:, :, None]))
    loss, amount = torch.zeros(()), 0.0
    for share, goal in goals:
        possible = goal.flatten(1)
        found = torch.logsumexp(shares.masked_fill(~possible, -1e9), 1)
        weights = share * group.weights[batch] * possible.any(1)
        loss = loss - (weights * torch.log((1 - HOPELESS) * torch.exp(found) + HOPELESS)).sum()
        amount += float(weights.sum())
    return loss, amount
