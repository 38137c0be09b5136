"""ALIGNN's graphs and features: ours against alignn + DGL, same structures, weights and cores.

python benchmarks/bench_alignn.py --data ../shared/data

Needs the extra `[dgl]`; `--no-peer` measures ours alone. Without shipped weights both get the
same random ones, which cost the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import once, seconds, table
from safetensors.torch import save_file

from crysmetrics.features.alignn import extractor as alignn
from crysmetrics.features.alignn import weights as weights_of
from crysmetrics.features.alignn.graph import LineGraphs, line_graphs
from crysmetrics.features.alignn.network import ALIGNN, GraphBatch
from crysmetrics.io import Crystals, read
from crysmetrics.parallel import chunks_of, in_threads, torch_threads
from crysmetrics.weights import shipped_weights

_PEER_BATCH = 32


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", default=300, show_default=True, help="Structures given to the peer.")
@click.option("--ours", default=2000, show_default=True, help="Structures given to ours.")
@click.option("--workers", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--peer/--no-peer", default=True)
def main(data: Path, limit: int, ours: int, workers: int, device: str, peer: bool) -> None:
    """Print one Markdown table for real crystals and one for noisy ones, without symmetry."""
    torch.set_num_threads(workers)
    crystals = read(data / "mp20" / "test.csv.gz")
    some = crystals[np.random.default_rng(0).permutation(len(crystals))[:ours]]
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_here(Path(folder))
        for name, chosen in (("MP-20 test split", some), ("the same with noise", noisy(some))):
            rows = measured(chosen, weights, workers, device)
            if peer:
                rows = with_peer(rows, chosen[:limit], weights)
            columns = ("what", "ours ms", "alignn + dgl ms", "ratio")
            title = f"ALIGNN a structure, {workers} core(s), {device}, {len(chosen)} of {name}"
            print(table(title, columns, rows))


def weights_here(folder: Path) -> str | Path:
    """The shipped weights' name, or a file with random ones."""
    if weights_of.DEFAULT_WEIGHTS in shipped_weights():
        return weights_of.DEFAULT_WEIGHTS
    torch.manual_seed(0)
    save_file(ALIGNN().state_dict(), folder / "random.safetensors")
    return folder / "random.safetensors"


def noisy(crystals: Crystals) -> Crystals:
    """Every atom displaced by some 0.1 Å: no two distances are equal any more."""
    rng = np.random.default_rng(1)
    noise = 0.1 * rng.normal(size=crystals.frac_coords.shape)
    inverse = np.linalg.inv(crystals.lattices)[crystals.structure_index]
    return Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords + np.einsum("ni,nij->nj", noise, inverse),
        crystals.lattices,
        crystals.num_atoms,
        crystals.ids,
    )


def measured(
    crystals: Crystals, weights: str | Path, workers: int, device: str
) -> list[tuple[Any, ...]]:
    """Milliseconds a structure of ours: graphs, forward pass, both with everything around."""
    count = len(crystals)
    loaded = weights_of.load_weights(weights)
    network = ALIGNN.from_state(loaded.network.state_dict()).to(device)

    def forward(fold: float) -> float:
        graphs = line_graphs(crystals, fold=fold, workers=workers)
        parts = chunks_of(graphs.num_pairs.tolist(), alignn.PAIRS_AT_ONCE)
        jobs = [(graphs[part],) for part in parts]

        def apply(some: LineGraphs) -> None:
            with torch.inference_mode():
                network.features(GraphBatch.of(some, device)).cpu()

        with torch_threads(1):  # as in `alignn.evaluate`: every core has batches of its own
            return seconds(lambda: list(in_threads(apply, jobs, workers)), 1) / count * 1e3

    def whole() -> None:
        alignn.evaluate(crystals, weights=weights, workers=workers, device=device)

    return [
        (
            "graph and line graph",
            seconds(lambda: line_graphs(crystals, workers=workers)) / count * 1e3,
        ),
        ("forward pass, folded", forward(alignn.FOLD)),
        ("forward pass, not folded", forward(0.0)),
        ("features, all of it", seconds(whole, 1) / count * 1e3),
    ]


def with_peer(
    rows: list[tuple[Any, ...]], crystals: Crystals, weights: str | Path
) -> list[tuple[Any, ...]]:
    """The rows with the original's times and the ratio beside them."""
    import dgl

    from crysmetrics.features.alignn import dgl as original

    network = original._original(weights_of.load_weights(weights)).network
    original.evaluate(crystals[:3], weights=weights, workers=torch.get_num_threads())
    graphs: list[Any] = []
    build = once(lambda: graphs.extend(original.original_graphs(c) for c in crystals))

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(graphs), _PEER_BATCH):
                pairs = graphs[start : start + _PEER_BATCH]
                batch = [dgl.batch([pair[k] for pair in pairs]) for k in (0, 1)]
                network((*batch, torch.zeros(3)))

    build, apply = (x / len(crystals) * 1e3 for x in (build, once(forward)))
    theirs = (build, apply, apply, build + apply)
    return [
        (what, mine, other, f"{other / mine:.1f}x")
        for (what, mine), other in zip(rows, theirs, strict=True)
    ]


if __name__ == "__main__":
    main()
