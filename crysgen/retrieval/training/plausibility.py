"""Train the networks of `scoring.plausibility` on leave-one-out examples.

Among the proposals for a crystal the network shall find those that match it, and more so those in
the right space group. A part of the other logits is given, so that it learns most where they fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysgen.retrieval.scoring.calibration import logits_of
from crysgen.retrieval.scoring.plausibility import (
    LocalEnvironments,
    PlausibilityNetwork,
    local_environments,
)
from crysgen.retrieval.training.element_table import element_table
from crysgen.retrieval.training.leave_one_out import Example
from crysmetrics.errors import UserError

EPOCHS = 9
"""Number of passes over the examples."""
BATCH = 24
"""Number of examples of a step."""
RATE = 2e-3
"""Highest learning rate."""
PROPOSALS = 12
"""Number of proposals of an example that a step looks at."""
MATCHES = 3
"""Number of these that match, at most."""
TEMPERATURE = 2.0
"""Divides the given logits when proposals that do not match are drawn."""
GIVEN = 0.3
"""Share of the given logits that the network need not learn."""
STRETCHED = 0.01
"""Standard deviation of the log-lengths of training, so that volumes are not trusted too much."""
MATCH = 0.6
"""Share of the loss that asks for a match."""
SYMMETRIC = 0.4
"""Share of the loss that asks for a match in the right space group."""
HOPELESS = 0.02
"""Probability that is shared out evenly, so that matches out of reach make no difference."""


@dataclass(frozen=True)
class PackedExamples:
    """Examples as arrays: the environments of all proposals, in little memory.

    Attributes:
        elements, shares, scale: (N,) as in `LocalEnvironments`.
        neighbours: (N, K) counted from the first site of the crystal.
        vectors: (N, K, 3).
        starts: (B + 1,) where the sites of each proposal begin.
        first: (Q + 1,) where the proposals of each example begin.
        logits, is_match, is_symmetric_match: (B,) of the proposals.
    """

    elements: NDArray[np.uint8]
    shares: NDArray[np.float32]
    scale: NDArray[np.float32]
    neighbours: NDArray[np.uint8]
    vectors: NDArray[np.float16]
    starts: NDArray[np.int64]
    first: NDArray[np.int64]
    logits: NDArray[np.float64]
    is_match: NDArray[np.bool_]
    is_symmetric_match: NDArray[np.bool_]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> PackedExamples:
        """Pack all proposals of some examples."""
        around = local_environments([cell for example in examples for cell in example.cells])
        sizes = around.sizes.numpy()
        starts = np.concatenate([[0], np.cumsum(sizes)])
        local = around.neighbours.numpy() - np.repeat(starts[:-1], sizes)[:, None]
        counts = [len(example.is_match) for example in examples]
        return cls(
            around.elements.numpy().astype(np.uint8),
            around.shares.numpy(),
            around.scale.numpy(),
            local.astype(np.uint8),
            around.vectors.numpy().astype(np.float16),
            starts,
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate(
                [logits_of(example.features, example.by_formula) for example in examples]
            ),
            np.concatenate([example.is_match for example in examples]),
            np.concatenate([example.is_symmetric_match for example in examples]),
        )

    def environments(self, proposals: NDArray[np.int64]) -> LocalEnvironments:
        """Unpack environments of some proposals, with volumes that are a little off."""
        begin, end = self.starts[proposals], self.starts[proposals + 1]
        sizes = end - begin
        offsets = np.cumsum(sizes) - sizes
        rows = np.arange(sizes.sum()) + np.repeat(begin - offsets, sizes)
        stretched = torch.exp(STRETCHED * torch.randn(len(sizes))).repeat_interleave(
            torch.from_numpy(sizes)
        )
        near = self.neighbours[rows].astype(np.int64) + np.repeat(offsets, sizes)[:, None]
        return LocalEnvironments(
            torch.from_numpy(self.elements[rows].astype(np.int64)),
            torch.from_numpy(self.shares[rows]),
            torch.from_numpy(sizes),
            torch.from_numpy(self.scale[rows]) * stretched,
            torch.from_numpy(near),
            torch.from_numpy(self.vectors[rows].astype(np.float32)),
        )

    def useful(self) -> NDArray[np.int64]:
        """List the examples of which some proposals match, and some do not."""
        spans = zip(self.first[:-1], self.first[1:], strict=True)
        mixed = [0 < self.is_match[a:b].sum() < b - a for a, b in spans]
        return np.flatnonzero(mixed)

    def drawn(self, example: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw some proposals that match and some that do not, rather those with high logits."""
        mine = np.arange(self.first[example], self.first[example + 1])
        is_match, wrong = mine[self.is_match[mine]], mine[~self.is_match[mine]]
        is_match = rng.permutation(is_match)[:MATCHES]
        chances = self.logits[wrong] / TEMPERATURE + rng.gumbel(size=len(wrong))
        wrong = wrong[np.argsort(-chances)[: PROPOSALS - len(is_match)]]
        return np.concatenate([is_match, wrong])


def train_plausibility(
    examples: Sequence[Example], seed: int = 0, epochs: int = EPOCHS
) -> PlausibilityNetwork:
    """Train a network on examples.

    Raises:
        UserError: if nothing can be learned from them.
    """
    from ase.data import covalent_radii

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    mixed = [example.is_match.any() and not example.is_match.all() for example in examples]
    if not any(mixed):
        raise UserError("No example has proposals that match and proposals that do not.")
    packed = PackedExamples.of(examples)
    useful = packed.useful()
    model = PlausibilityNetwork(
        torch.tensor(element_table(), dtype=torch.float32),
        torch.tensor(covalent_radii[:119], dtype=torch.float32),
    )
    others = [p for name, p in model.named_parameters() if name != "own"]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.03}, {"params": [model.own], "weight_decay": 0.1}],
        lr=RATE,
    )
    steps = epochs * -(-len(useful) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps + 1, pct_start=0.1
    )
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(useful)
        for begin in range(0, len(order), BATCH):
            loss = _loss(model, packed, [packed.drawn(q, rng) for q in order[begin:][:BATCH]])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"plausibility, epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)
    return model.eval()


def _loss(
    model: PlausibilityNetwork, packed: PackedExamples, drawn: Sequence[NDArray[np.int64]]
) -> Tensor:
    """Compute the loss of a batch of examples, each with some of its proposals."""
    rows = np.concatenate(drawn)
    given = torch.from_numpy(packed.logits[rows]).float()
    scores = model(packed.environments(rows)) + GIVEN * given
    sizes = np.array([len(mine) for mine in drawn])
    example = np.repeat(np.arange(len(drawn)), sizes)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    where = torch.from_numpy(example), torch.from_numpy(place)
    nothing = scores.new_full((len(drawn), PROPOSALS), -1e4)
    shares = torch.softmax(nothing.index_put(where, scores), dim=1)
    total = scores.new_zeros(())
    for part, labels in ((MATCH, packed.is_match), (SYMMETRIC, packed.is_symmetric_match)):
        matches = torch.zeros_like(shares).index_put(where, torch.from_numpy(labels[rows]).float())
        hit = (shares * matches).sum(1)[matches.any(dim=1)]
        total = total - part * torch.log((1 - HOPELESS) * hit + HOPELESS / PROPOSALS).sum()
    return total / len(drawn)


@torch.no_grad()
def scores_of(model: PlausibilityNetwork, examples: Sequence[Example]) -> list[NDArray[np.float64]]:
    """Score the proposals (n,) of each example."""
    return [model(local_environments(example.cells)).double().numpy() for example in examples]
