"""Which entries match which prototypes: the shipped library beside the matcher of today.

    python benchmarks/csp/prototype_hits.py --share 0.1

The library holds the decisions of the matcher that it was made with. Every entry is compared with
every prototype of its anonymous formula again, under every permutation of species.
"""

from __future__ import annotations

import time

import click
import numpy as np

from crysgen.retrieval.library.anonymous import species_permutations
from crysgen.retrieval.library.entries import load_entries
from crysgen.retrieval.library.library import shipped_library
from crysgen.retrieval.library.prototypes import displacements


@click.command()
@click.option("--share", default=1.0, show_default=True, help="Of the pairs, drawn at random.")
@click.option("--seed", default=0, show_default=True)
def main(share: float, seed: int) -> None:
    """Print how many decisions are the same."""
    entries = load_entries(shipped_library())
    stored = set(
        zip(
            entries.match_entry.tolist(),
            entries.match_representative.tolist(),
            entries.match_permutation.tolist(),
            strict=True,
        )
    )
    niggli = entries.niggli_cells(np.arange(len(entries)))
    rng = np.random.default_rng(seed)
    begun = time.perf_counter()
    pairs_seen = pairs_differ = found = missing = new = 0
    for counts, members in entries.by_counts.items():
        cases = species_permutations(counts)
        leaders = np.flatnonzero(np.isin(entries.representatives, members))
        pairs = np.stack(np.meshgrid(members, leaders, indexing="ij"), -1).reshape(-1, 2)
        pairs = pairs[rng.random(len(pairs)) < share]
        index = np.stack([pairs[:, 0], entries.representatives[pairs[:, 1]]], axis=1)
        now = np.isfinite(displacements(niggli, niggli, index, cases))
        then = np.array(
            [[(i, j, k) in stored for k in range(len(cases))] for i, j in pairs.tolist()],
            dtype=bool,
        ).reshape(now.shape)
        pairs_seen += len(pairs)
        pairs_differ += int((now.any(axis=1) != then.any(axis=1)).sum())
        found += int((now & then).sum())
        missing += int((then & ~now).sum())
        new += int((now & ~then).sum())
    seconds = time.perf_counter() - begun
    print(f"{pairs_seen:,} pairs in {seconds:.0f} s; {pairs_differ} match only then or only now")
    print(f"matches by permutation: {found:,} then and now, {missing} only then, {new} only now")


if __name__ == "__main__":
    main()
