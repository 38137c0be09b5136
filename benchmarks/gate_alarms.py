"""How often `crysmetrics compare` fails a run that is as good as its baseline, and one that is not.

    python benchmarks/gate_alarms.py --data ../shared/data -o docs

Real structures are dealt at random into disjoint draws; any two draws come from one distribution,
so that a gate which fails one against the other has failed by chance. Then one draw is spoiled, in
one way at a time. Features are computed once and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from common import where
from make_noisy_sets import perturb
from perturbation_study import duplicated, swapped, without

from crysmetrics.evaluation import evaluate_measures
from crysmetrics.features.cache import open_cache
from crysmetrics.features.extractor import Run
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals, read
from crysmetrics.metrics.intervals import Z95
from crysmetrics.metrics.registry import all_measures, all_metrics
from crysmetrics.reporting.compare import changes, default_gate

Document = Mapping[str, Any]

_FEATURES = ("crystalnn", "magpie", "alignn", "cgcnn", "space_group", "space_group_tight")

MARKER = "<!-- measured by benchmarks/gate_alarms.py -->"
"""Line of the page above which its text stands; what is below is written anew."""


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("docs"))
@click.option("--pool", "pool_size", default=4000, show_default=True, help="Structures to deal.")
@click.option("--reference", "n_ref", default=1000, show_default=True)
@click.option("--count", default=250, show_default=True, help="Structures in a draw.")
@click.option("--deals", default=8, show_default=True, help="Times the pool is dealt.")
@click.option("--seed", default=0, show_default=True)
@click.option("--cache", metavar="DIR|off", help="Of features.")
def main(
    data: Path,
    output: Path,
    pool_size: int,
    n_ref: int,
    count: int,
    deals: int,
    seed: int,
    cache: str | None,
) -> None:
    """Measure rates of alarms and write them as a table."""
    rng = np.random.default_rng(seed)
    run = Run(workers=1, cache=open_cache(cache))
    pool = Sample(_some(read(data / "mp20" / "val.csv.gz"), pool_size, rng), "gen", None, run)
    ref = Sample(_some(read(data / "mp20" / "test.csv.gz"), n_ref, rng), "ref", None, run)
    for sample in (pool, ref):
        for name in _FEATURES:
            sample.features(name)
    equal = [
        [_document(pool.chosen(part), ref) for part in _dealt(len(pool), count, rng)]
        for _ in range(deals)
    ]
    click.echo("equal draws are done", err=True)
    halves = [_document(pool.chosen(p), ref) for p in _dealt(len(pool), count // 2, rng)]
    pairs = [pair for draws in equal for pair in permutations(draws, 2)]
    base = equal[0]
    caught = []
    for kind, crystals in _spoiled(pool.crystals, count, rng):
        spoiled = _document(Sample(crystals, "gen", None, run), ref)
        caught.append((kind, *_rates([(one, spoiled) for one in base])))
        click.echo(f"{kind} is done", err=True)
    made_by = f"`python benchmarks/gate_alarms.py --pool {pool_size} --reference {n_ref}"
    made_by += f" --count {count} --deals {deals} --seed {seed}`, {where()}"
    output.mkdir(parents=True, exist_ok=True)
    tables = _tables(pairs, _per_metric(equal, halves), caught, made_by, count)
    page = output / "comparing.md"
    text = page.read_text(encoding="utf-8").partition(MARKER)[0] if page.is_file() else ""
    page.write_text(f"{text}{MARKER}\n\n{tables}", encoding="utf-8")


def _some(crystals: Crystals, count: int, rng: np.random.Generator) -> Crystals:
    return crystals[np.sort(rng.choice(len(crystals), count, replace=False))]


def _dealt(total: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Disjoint random parts of so many indices each."""
    order = rng.permutation(total)
    return [np.sort(order[k : k + count]) for k in range(0, total - count + 1, count)]


def _document(gen: Sample, ref: Sample) -> Document:
    names = [name for name, measure in all_measures().items() if not measure.paired]
    return evaluate_measures(names, gen, ref, run=gen.run).as_json()


def _spoiled(
    pool: Crystals, count: int, rng: np.random.Generator
) -> Iterator[tuple[str, Crystals]]:
    """Sets that are worse than the draws, each in one way."""
    base = _some(pool, count, rng)
    moves, strains = rng.normal(size=base.frac_coords.shape), rng.normal(size=(count, 3, 3))
    for level in (0.03, 0.1, 0.3):
        yield f"positional noise, {level} Å", perturb(base, level, moves, 0 * strains)
    for level in (0.03, 0.1):
        yield f"strain, {level:.0%}", perturb(base, 5 * level, 0 * moves, strains)
    order, choices = rng.permutation(count), rng.random((count, 2))
    for share in (0.2, 1.0):
        yield f"element swaps, {share:.0%}", swapped(base, share, order, choices)
    for share in (0.1, 0.3):
        yield f"duplicates, {share:.0%}", duplicated(base, share)
    shuffled = pool[rng.permutation(len(pool))]
    yield "no oxides", without(shuffled, ("O",), count)
    yield "no chalcogenides", without(shuffled, ("O", "S", "Se", "Te"), count)


def _rates(pairs: list[tuple[Document, Document]]) -> tuple[float, float, float]:
    """Shares of pairs that fail: any metric by 1.96 errors, the default gate, all metrics."""
    before = after = every = 0
    for base, candidate in pairs:
        found = changes(base, candidate, metrics="all")
        before += any(
            c.worse_by > Z95 * (c.stderr or 0.0) for c in found if c.difference is not None
        )
        every += any(c.failed for c in found)
        after += any(c.failed for c in changes(base, candidate))
    return before / len(pairs), after / len(pairs), every / len(pairs)


def _per_metric(equal: list[list[Document]], halves: list[Document]) -> pd.DataFrame:
    """How errors fit the scatter of equal draws, and what half as many structures change."""
    rows = []
    for key, metric in all_metrics().items():
        found = [[d["metrics"][key] for d in draws if key in d["metrics"]] for draws in equal]
        if not found[0]:
            continue
        values = np.array([[e["value"] for e in draws] for draws in found], dtype=float)
        errors = np.array([[e["stderr"] for e in draws] for draws in found], dtype=float)
        fewer = np.array([d["metrics"][key]["value"] for d in halves], dtype=float)
        scatter = np.sqrt(values.var(axis=1, ddof=1).mean())
        worse = values[:, None, :] - values[:, :, None]
        worse *= 1 if metric.better == "lower" else -1
        limit = Z95 * np.hypot(errors[:, None, :], errors[:, :, None])
        off = ~np.eye(values.shape[1], dtype=bool)
        change = (np.nanmean(fewer) - values.mean()) / scatter if scatter else 0.0
        rows.append(
            (
                key,
                "yes" if metric.gated else "",
                "yes" if metric.biased else "",
                scatter / errors.mean() if errors.mean() else float("nan"),
                float((worse > limit)[:, off].mean()),
                float(change),
            )
        )
    names = ["metric", "gate", "depends on n", "scatter / error", "worse by 1.96 errors", "half"]
    return pd.DataFrame(rows, columns=names)


def _tables(
    pairs: list[tuple[Document, Document]],
    metrics: pd.DataFrame,
    caught: list[tuple[str, float, float, float]],
    made_by: str,
    count: int,
) -> str:
    """The tables."""
    before, after, every = _rates(pairs)
    present = pairs[0][0]["metrics"]
    gate = ", ".join(f"`{key}`" for key in default_gate() if key in present)
    lines = [
        f"By default, these metrics are tested: {gate}; and `match_rate` if structures are paired.",
        "",
        "## False alarms and misses, measured",
        "",
        f"{len(pairs):,} ordered pairs of disjoint draws of {count} real structures (MP-20 "
        "validation split) against one reference (MP-20 test split).",
        "",
        "| rule | pairs that fail |",
        "| --- | ---: |",
        f"| any metric worse by 1.96 standard errors | {before:.1%} |",
        f"| default gate ({gate.count(',') + 1} metrics, Holm at 5 %) | {after:.1%} |",
        f"| `--all` (Holm at 5 %) | {every:.1%} |",
        "",
        "How often spoiled sets fail against the draws of one deal:",
        "",
        "| spoiled by | 1.96 errors, any metric | default gate | `--all` |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {kind} | {a:.0%} | {b:.0%} | {c:.0%} |" for kind, a, b, c in caught),
        "",
        "For each metric: the scatter of equal draws divided by the standard error (1 if the error "
        "is right, above 1 if it is too small); how often a draw is worse than another by 1.96 "
        "errors (2.5 % if the error is right); and how far the value moves with half as many "
        "structures, in units of that scatter.",
        "",
        "| " + " | ".join(metrics.columns) + " |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in metrics.itertuples(index=False):
        key, gated, biased, ratio, alarm, change = row
        lines.append(
            f"| `{key}` | {gated} | {biased} | {ratio:.2f} | {alarm:.1%} | {change:+.2f} |"
        )
    return "\n".join([*lines, "", made_by]) + "\n"


if __name__ == "__main__":
    main()
