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

INTRODUCTION = """\
# Comparing two results

`crysmetrics compare BASE CAND` asks of each metric whether CAND is worse than BASE by more than
chance explains, and ends with status 1 if one is.

- **One level for all metrics.** Of twenty metrics some differ by 1.96 standard errors by chance
  alone. So the level (5 %, `--level`) is that of the whole gate: a run as good as its baseline
  fails with at most this chance, by Holm's procedure, whatever the dependence of the metrics. The
  chance of one metric is one-sided, from the standard errors of both values; shares near 0 and 1
  take Wilson's intervals instead, since the normal error vanishes there.
- **A short list by default.** The default gate has one metric for each way in which a generator
  goes wrong, so that each is tested at a level that still sees something: broken cells, wrong
  chemistry, wrong volumes, lost modes, lost symmetry, unlike structures, and copies. Metrics that
  repeat another one (`validity`, the marginal coverages, `amcd_*`), or that are noisier relatives
  of one (`fad_inf`, `kad`), are left out. `--all` takes every metric, `--metrics` a list, and a
  metric named by `--allow` is looked at as well.
- **Tolerances.** `--allow KEY=NUMBER` lets a metric get worse by so much, in its unit: it fails
  only if it is worse by more than that *and* by more than chance explains.
- **Equal numbers.** Some metrics depend on how many structures were generated: recall and its
  distances, EMDs, Fréchet distances (the extrapolated one less than the others), uniqueness,
  METRe, the distance of space groups. Where the numbers differ by more than 2 % these are not
  compared, and the table says so; naming one of them with `--metrics` is then an error. `kad`,
  precision, validity, diversity and match rates do not depend on it. `rank` leaves such metrics
  out of its mean rank likewise.
- **What can't be judged is not judged.** A metric whose package is not installed is `skipped`;
  one without a baseline is `new`; one that is undefined now, but was not, fails. Damaged files,
  other settings, protocols, references or feature extractors (the weights of ALIGNN among them)
  end with status 2 and a sentence.
"""


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
    page = _page(pairs, _per_metric(equal, halves), caught, made_by, count)
    (output / "comparing.md").write_text(page, encoding="utf-8")


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


def _page(
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
        *INTRODUCTION.splitlines(),
        "",
        f"The default gate looks at {gate}, and at `match_rate` where structures are paired.",
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
        "Spoiled sets against the draws of one deal, and how often they fail:",
        "",
        "| spoiled by | 1.96 errors, any metric | default gate | `--all` |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {kind} | {a:.0%} | {b:.0%} | {c:.0%} |" for kind, a, b, c in caught),
        "",
        "Each metric: the scatter of equal draws over its standard error (1 where the error is "
        "right, above 1 where it is too small), how often it is worse by 1.96 errors by chance "
        "(2.5 % where the error is right), and by how much of that scatter half as many "
        "structures move it.",
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
