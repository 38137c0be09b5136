"""What each metric sees: real structures, spoiled in one way at a time, against real structures.

    python benchmarks/perturbation_study.py --data ../shared/data -o docs

Writes perturbations.md, perturbations.csv, and the figure as perturbations.png and .svg. Most of
the time goes to ALIGNN, on structures that have lost their symmetry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from common import where
from make_noisy_sets import perturb

import crysmetrics
from crysmetrics.evaluation import as_sample
from crysmetrics.features.cache import open_cache
from crysmetrics.features.extractor import Run
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals, read
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.metrics.registry import all_measures, all_metrics

SEEN = 1.96
"""Standard errors of the difference beyond which a metric has seen a change."""
DROPPED = {
    "O": ("O",),
    "O, S, Se, Te": ("O", "S", "Se", "Te"),
    "chalcogens, halogens": ("O", "S", "Se", "Te", "F", "Cl", "Br", "I"),
    "all but intermetallics": (
        *("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Te", "I"),
    ),
}


@dataclass(frozen=True)
class Case:
    """One spoiled set."""

    kind: str
    level: str
    crystals: Crystals


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("docs"))
@click.option("--count", default=600, show_default=True, help="Generated structures.")
@click.option("--reference", "n_ref", default=2000, show_default=True, help="Reference structures.")
@click.option("--seed", default=0, show_default=True)
@click.option("--cache", metavar="DIR|off", help="Of features.")
def main(data: Path, output: Path, count: int, n_ref: int, seed: int, cache: str | None) -> None:
    """Evaluate every spoiled set and write table and figure."""
    rng = np.random.default_rng(seed)
    pool = read(data / "mp20" / "val.csv.gz")
    pool = pool[rng.permutation(len(pool))]
    test = read(data / "mp20" / "test.csv.gz")
    run = Run(cache=open_cache(cache))
    ref = as_sample(test[np.sort(rng.permutation(len(test))[:n_ref])], "ref", run)
    metrics = [m.key for measure in all_measures().values() if not measure.paired
               for m in measure.metrics]  # fmt: skip
    rows = []
    for case in cases(pool, count, rng):
        report = crysmetrics.evaluate(
            Sample(case.crystals, "gen", None, run), ref, metrics=metrics, seed=seed
        )
        for key, value in report.metrics.items():
            rows.append((case.kind, case.level, key, value.value, value.stderr, value.n_gen))
        click.echo(f"{case.kind} {case.level}: {report.timing['total']:.0f} s", err=True)
    table = pd.DataFrame(rows, columns=["kind", "level", "metric", "value", "stderr", "n_gen"])
    table["change"] = changes(table)
    output.mkdir(parents=True, exist_ok=True)
    table.to_csv(output / "perturbations.csv", index=False, float_format="%.6g")
    draw(table, output)
    made_by = f"`python benchmarks/perturbation_study.py --count {count} --reference {n_ref}"
    made_by += f" --seed {seed}`, {where()}"
    page = document(table, count, n_ref, made_by)
    (output / "perturbations.md").write_text(page, encoding="utf-8")


def cases(pool: Crystals, count: int, rng: np.random.Generator) -> Iterator[Case]:
    """The unspoiled set, and each spoiled one; all but subsamples have `count` structures."""
    base = pool[:count]
    yield Case("none", "", base)
    moves = rng.normal(size=base.frac_coords.shape)
    strains = rng.normal(size=(count, 3, 3))
    for level in (0.01, 0.03, 0.1, 0.3):
        yield Case("positional noise", f"{level} Å", perturb(base, level, moves, 0 * strains))
    for level in (0.01, 0.03, 0.1, 0.2):
        # `perturb` strains by a fifth of its level.
        yield Case("strain", f"{level:.0%}", perturb(base, 5 * level, 0 * moves, strains))
    order, choices = rng.permutation(count), rng.random((count, 2))
    for share in (0.05, 0.2, 0.5, 1.0):
        yield Case("element swaps", f"{share:.0%}", swapped(base, share, order, choices))
    for share in (0.1, 0.3, 0.6, 0.9):
        yield Case("duplicates", f"{share:.0%}", duplicated(base, share))
    for name, elements in DROPPED.items():
        yield Case("dropped modes", name, without(pool, elements, count))
    for share in (2, 4, 6, 12):
        yield Case("subsampling", f"{count // share}", base[: count // share])


def swapped(crystals: Crystals, share: float, order: np.ndarray, choices: np.ndarray) -> Crystals:
    """In a share of the structures one element has become another, any of those in the set."""
    numbers, known = crystals.atomic_numbers.copy(), np.unique(crystals.atomic_numbers)
    for i in order[: round(share * len(crystals))]:
        atoms = slice(crystals.offsets[i], crystals.offsets[i + 1])
        present = np.unique(numbers[atoms])
        others = np.setdiff1d(known, present)
        old, new = (s[int(c * len(s))] for s, c in zip((present, others), choices[i], strict=True))
        numbers[atoms][numbers[atoms] == old] = new
    return replace(crystals, atomic_numbers=numbers)


def duplicated(crystals: Crystals, share: float) -> Crystals:
    """A share of the structures are copies of the others, each of which is copied about equally."""
    kept = round((1 - share) * len(crystals))
    arrays = crystals[np.arange(kept)]
    rounds = [
        arrays.with_ids([f"{name}-{k}" for name in arrays.ids])
        for k in range(1, 1 + len(crystals) // kept)
    ]
    return Crystals.concatenate([arrays, *rounds])[np.arange(len(crystals))]


def without(pool: Crystals, elements: tuple[str, ...], count: int) -> Crystals:
    """As many structures, none of which holds any of these elements."""
    numbers = [ATOMIC_NUMBERS[symbol] for symbol in elements]
    return pool[pool.element_counts[:, numbers].sum(axis=1) == 0][:count]


def changes(table: pd.DataFrame) -> pd.Series:
    """How much worse each value is than that of the unspoiled set, in standard errors."""
    base = table[table.kind == "none"].set_index("metric")
    better = {key: metric.better for key, metric in all_metrics().items()}
    sign = table.metric.map(lambda key: 1 if better[key] == "lower" else -1)
    error = np.hypot(table.stderr.fillna(0), table.metric.map(base.stderr).fillna(0))
    difference = sign * (table.value - table.metric.map(base.value))
    # Without any scatter (all structures valid) any change counts.
    return difference / error.where(error > 0, 1e-9)


def draw(table: pd.DataFrame, output: Path) -> None:
    """A map: metrics down, sets across; red where a metric got worse, blue where better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure

    spoiled = table[table.kind != "none"]
    columns = list(dict.fromkeys(zip(spoiled.kind, spoiled.level, strict=True)))
    metrics = list(dict.fromkeys(table.metric))
    grid = spoiled.set_index(["metric", "kind", "level"]).change
    values = np.array([[grid[m, k, v] for k, v in columns] for m in metrics], dtype=float)
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    norm = SymLogNorm(SEEN, vmin=-50, vmax=50, base=10)
    image = ax.imshow(values, cmap="RdBu_r", norm=norm, aspect="auto")
    ax.set_yticks(range(len(metrics)), metrics, fontfamily="monospace")
    ax.set_xticks(range(len(columns)), [v for _, v in columns], rotation=45, ha="right")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and abs(value) > SEEN:
            text = f"{value:+.0f}" if abs(value) < 1000 else ("++" if value > 0 else "--")
            colour = "white" if abs(value) > 15 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    kinds = [k for k, _ in columns]
    for kind in dict.fromkeys(kinds):
        first, last = kinds.index(kind), len(kinds) - 1 - kinds[::-1].index(kind)
        ax.text((first + last) / 2, -0.8, kind, ha="center", va="bottom", fontweight="bold")
        if first:
            ax.axvline(first - 0.5, color="black", lw=1)
    bar = figure.colorbar(image, ax=ax, shrink=0.6, ticks=[-50, -10, -SEEN, 0, SEEN, 10, 50])
    bar.ax.set_yticklabels(["-50", "-10", "-1.96", "0", "1.96", "10", "50"])
    bar.set_label("worse than the unspoiled set, in standard errors")
    figure.savefig(output / "perturbations.png", dpi=110)
    figure.savefig(output / "perturbations.svg", metadata={"Date": None})


def document(table: pd.DataFrame, count: int, n_ref: int, made_by: str) -> str:
    """The page: what was done, the figure, who sees what, and all values.

    Args:
        table: of all sets, with changes.
        count, n_ref: structures of a set and of the reference.
        made_by: command, machine and date.
    """
    distinct = table.drop_duplicates(["kind", "level"])
    kinds = [k for k in dict.fromkeys(table.kind) if k != "none"]
    metrics = list(dict.fromkeys(table.metric))
    lines = [
        "# Which faults each metric detects",
        "",
        f"{count} real structures of the MP-20 validation split play the part of generated ones; "
        f"the reference is {n_ref:,} of the test split. The set is spoiled in one way at a time:",
        "",
        "- **positional noise**: every atom is moved by Gaussian noise, with this standard "
        "deviation along each axis;",
        "- **strain**: the cell is deformed by a symmetric Gaussian strain, which also changes its "
        "volume;",
        "- **element swaps**: in this share of the structures, one element is replaced by a random "
        "other one;",
        "- **duplicates**: this share of the set is replaced by copies of the rest;",
        "- **dropped modes**: structures with these elements are replaced by others without them;",
        "- **subsampling**: only this number of the structures is kept.",
        "",
        "![How much worse each metric gets, in standard errors](perturbations.svg)",
        "",
        "Numbers in the figure are changes in units of the standard error of the difference, shown "
        "where they exceed 1.96. Positive (red) is worse. Blue means that a metric *improves*, "
        "although the set got worse.",
        "",
        "For noise, strain and swaps the standard errors are rather too large: the spoiled set is "
        "made from the unspoiled one, and the error of the difference ignores that. For many "
        "duplicates they are too small: copies count as independent structures, and with "
        f"{_share_of_duplicates(table)} only few distinct ones are left, whose validity, energies "
        "and distances depend on chance. The same holds for the smallest subsamples. Of "
        f"{len(metrics) * (len(distinct) - 1):,} changes some exceed 1.96 by chance, so a change "
        "that does not grow with the level means little.",
        "",
        "What is detected also depends on the number of structures: errors fall with its square "
        "root, so a metric that detects nothing here may do so with ten times as many.",
        "",
        "## The smallest level that each metric detects",
        "",
        "This is the first level from which on the metric is worse by more than 1.96 standard "
        "errors. **–** means that there is none; *better* means that the metric is better by more "
        "than 1.96 standard errors at the largest level. Levels at which a metric is undefined are "
        "left out.",
        "",
        "| metric | " + " | ".join(kinds) + " |",
        "| --- |" + " --- |" * len(kinds),
    ]
    for metric in metrics:
        cells = [_first_seen(table[(table.metric == metric) & (table.kind == k)]) for k in kinds]
        lines.append(f"| `{metric}` | " + " | ".join(cells) + " |")
    lines += ["", "## In short", "", *_summary(table, kinds, metrics), "", "## Values", ""]
    for kind in kinds:
        part = table[table.kind.isin(["none", kind])]
        levels = list(dict.fromkeys(part.level))
        lines.append(f"### {kind.capitalize()}")
        lines.append("")
        lines.append("| metric | " + " | ".join(level or "none" for level in levels) + " |")
        lines.append("| --- |" + " ---: |" * len(levels))
        for metric in metrics:
            row = part[part.metric == metric].set_index("level")
            lines.append(f"| `{metric}` | " + " | ".join(_value(row.loc[v]) for v in levels) + " |")
        lines.append("")
    lines.append(made_by)
    return "\n".join(lines) + "\n"


def _share_of_duplicates(table: pd.DataFrame) -> str:
    return str(table[table.kind == "duplicates"].level.iloc[-1])


def _first_seen(rows: pd.DataFrame) -> str:
    rows = rows[rows.change.notna()]
    worse = (rows.change > SEEN).tolist()
    if not worse[-1]:
        return "*better*" if rows.change.iloc[-1] < -SEEN else "–"
    first = len(worse) - next((k for k, seen in enumerate(worse[::-1]) if not seen), len(worse))
    return str(rows.level.iloc[first])


def _summary(table: pd.DataFrame, kinds: list[str], metrics: list[str]) -> list[str]:
    """For each way, the metrics that see it, by level, those that never do, or wrongly."""
    lines = []
    blind = set(metrics)
    for kind in kinds:
        part = table[table.kind == kind]
        seen = {m: _first_seen(part[part.metric == m]) for m in metrics}
        parts = []
        for level in dict.fromkeys(part.level):
            by = [f"`{metric}`" for metric in metrics if seen[metric] == level]
            if by:
                parts.append(
                    f"{'detected ' if not parts else ''}from *{level}* on by {', '.join(by)}"
                )
        for what, title in (("–", "not by"), ("*better*", "better at the largest level:")):
            by = [f"`{metric}`" for metric in metrics if seen[metric] == what]
            if by:
                parts.append(f"{title} {', '.join(by)}")
        lines.append(f"- **{kind.capitalize()}**: {'; '.join(parts)}.")
        blind &= {metric for metric, what in seen.items() if what in ("–", "*better*")}
    if blind:
        names = ", ".join(f"`{metric}`" for metric in metrics if metric in blind)
        lines.append(f"- Nothing of this is detected by {names}.")
    return lines


def _value(row: Any) -> str:
    if row.value != row.value or row.value is None:
        return "–"
    return f"{row.value:.4g}" + ("" if row.stderr != row.stderr else f" ± {row.stderr:.2g}")


if __name__ == "__main__":
    main()
