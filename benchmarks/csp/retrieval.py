"""Match rates of proposals from the library, beside plain substitution.

python benchmarks/csp/retrieval.py --data ../shared/data --split val

The plain peer takes the entries of the same anonymous formula and cell size in the order of their
Mendeleev numbers' distance, the best assignment of elements to sites each. Both see `train` only.
`--split test` is for final figures, not for tuning.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from answers import MOST, Answers, Proposer, answers_in_parts, atoms_of
from numpy.typing import NDArray
from reliability import calibration, diagram, reliability

from crysgen.retrieval.library.anonymous import sorted_species
from crysgen.retrieval.library.build import TABLES
from crysgen.retrieval.library.library import Library, library_files
from crysgen.retrieval.proposals.proposal import (
    Proposal,
    ProposalFeatures,
    source_of,
)
from crysgen.retrieval.proposals.sizing import with_volumes
from crysgen.retrieval.proposals.template_ranking import ranked_templates
from crysgen.retrieval.propose import propose, uncalibrated
from crysgen.retrieval.scoring.probability import calibrated
from crysmetrics.io import Crystals, read

TOPS = (1, 5, MOST)
_NOT_TRAIN = {"mp20_test": ("mp20/test.csv.gz", None)}


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True)
@click.option("--limit", type=int, help="So many compositions, drawn at random.")
@click.option("--library", type=click.Path(path_type=Path), help="Another library file.")
@click.option("--workers", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--known-first", is_flag=True, help="As shipped: entries of the very formula first.")
@click.option("--peer/--no-peer", default=True)
@click.option("--parts", is_flag=True, help="Also what each part of the method brings.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Per-composition CSV.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder of parts, to go on from.")
@click.option("--diagram", "drawn", type=click.Path(path_type=Path), help="PNG of reliability.")
def main(
    data: Path, split: str, limit: int | None, library: Path | None, workers: int,
    seed: int, known_first: bool, peer: bool, parts: bool, output: Path | None,
    work: Path | None, drawn: Path | None,
) -> None:  # fmt: skip
    """Print match rates, and how well probabilities hold, as Markdown tables."""
    targets = targets_of(data, split)
    if limit is not None and limit < len(targets):
        rng = np.random.default_rng(seed)
        targets = targets[np.sort(rng.permutation(len(targets))[:limit])]
    known = Library.load(library, extra=[])
    in_train = formulas_in(known, targets)
    methods = {
        "retrieval": lambda atoms: propose(known, atoms, MOST, exclude_formula=not known_first)
    }
    if parts:
        methods = parts_of(known, not known_first) | methods
    if peer or parts:
        mendeleev = mendeleev_numbers()
        methods["Mendeleev"] = lambda atoms: plain(known, atoms, mendeleev)
    tables = []
    for name, method in methods.items():
        identity = [name, str(known_first), *hashes(library)]
        found = answers_in_parts(method, targets, workers, work, identity)
        tables.append(summary(name, found, targets, in_train))
        if output is not None:
            hit = np.isfinite(found.distances)
            ranks = np.where(hit.any(1), hit.argmax(1), -1)
            pd.DataFrame({"id": targets.ids, "rank": ranks}).to_csv(
                output.with_stem(f"{output.stem}-{name}"), index=False
            )
        if name == "retrieval":
            held = probabilities_of(found)
    print(pd.concat(tables).to_markdown(index=False, floatfmt=".4f"))
    rows = [{"probabilities": name, **calibration(*pair)} for name, pair in held.items()]
    print()
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4f"))
    for name, pair in held.items():
        print(f"\n{name}:\n{reliability(*pair).to_markdown(index=False, floatfmt='.3f')}")
    if drawn is not None:
        diagram({name: reliability(*pair) for name, pair in held.items()}, drawn)


def hashes(library: Path | None) -> list[str]:
    """Hash what answers come from: the library, and what was learned from it."""
    files = [*library_files(), *([] if library is None else [library])]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def probabilities_of(
    found: Answers,
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Probabilities of first proposals and of up to twenty, and which of these match."""
    held = {}
    for name, top in (("first", 1), ("within 20", MOST)):
        chances = found.probabilities[:, :top]
        given = np.isfinite(chances)
        held[name] = (chances[given], np.isfinite(found.distances[:, :top])[given])
    return held


def parts_of(known: Library, exclude_formula: bool) -> dict[str, Proposer]:
    """Build the method up: templates, volumes, proposals from simpler and richer formulas, the
    calibration of the order; the whole has the plausibility network besides."""

    def templates(atoms: dict[int, int]) -> list[Proposal]:
        return ranked_templates(known, atoms, MOST, exclude_formula=exclude_formula)

    def volumes(atoms: dict[int, int]) -> list[Proposal]:
        return with_volumes(known, templates(atoms))

    def decorations(atoms: dict[int, int]) -> list[Proposal]:
        found = uncalibrated(known, atoms, exclude_formula=exclude_formula)
        return sorted(found, key=lambda p: -p.score)[:MOST]

    def ordered(atoms: dict[int, int]) -> list[Proposal]:
        found = uncalibrated(known, atoms, exclude_formula=exclude_formula)
        return calibrated(found)[:MOST]

    return {
        "learned similarity": templates,
        "+ volume network": volumes,
        "+ decorations and merged species": decorations,
        "+ calibrated order": ordered,
    }


def targets_of(data: Path, split: str) -> Crystals:
    """The structures of a split with at most 20 atoms."""
    table = pd.read_csv(data / "splits.csv.gz", dtype={"id": str}, keep_default_na=False)
    table = table[(table.split == split) & (table.num_atoms <= 20)]
    files = {name: file for name, (file, _) in TABLES.items()} | {
        name: file for name, (file, _) in _NOT_TRAIN.items()
    }
    parts = []
    for source, rows in table.groupby("source"):
        file = files[source]
        crystals = read(data / file)
        in_zip = file.endswith(".zip")
        keys = set(rows.cif_file.map(lambda f: Path(f).stem) if in_zip else rows.id)
        chosen = crystals[[i for i, key in enumerate(crystals.ids) if key in keys]]
        parts.append(
            Crystals(chosen.atomic_numbers, chosen.frac_coords, chosen.lattices,
                     chosen.num_atoms, tuple(f"{source}/{i}" for i in chosen.ids))
        )  # fmt: skip
    return Crystals.concatenate(parts)


def formulas_in(library: Library, targets: Crystals) -> NDArray[np.bool_]:
    """Which reduced formulas occur in the library (as another polymorph)."""

    def reduced_formula(elements: Any, counts: Any) -> tuple[tuple[int, int], ...]:
        divisor = int(np.gcd.reduce(counts))
        pairs = zip(map(int, elements), counts, strict=True)
        return tuple(sorted((z, int(c) // divisor) for z, c in pairs))

    entries = library.entries
    there = {reduced_formula(entries.species(i), entries.counts(i)) for i in range(len(entries))}
    asked = (atoms_of(target) for target in targets)
    return np.array([reduced_formula(list(a), list(a.values())) in there for a in asked])


def mendeleev_numbers() -> NDArray[np.float64]:
    """(119,) by atomic number."""
    from pymatgen.core import Element

    from crysmetrics.io.elements import SYMBOLS

    known = [float(Element(symbol).mendeleev_no) for symbol in SYMBOLS[1:104]]
    return np.array([0.0, *known, *[known[-1]] * (len(SYMBOLS) - 104)])


_UNRANKED = ProposalFeatures(
    share=0.0, first_share=0.0, nearest=0.0, effective_support=0.0, num_supporting=0,
    stable_weight=0.0, volume_factor=0.0, e_above_hull=np.nan, known_above_hull=0.0,
    user_entry=False, multiple=1,
)  # fmt: skip
"""Of proposals that nothing but one distance ranks."""


def plain(library: Library, atoms: dict[int, int], numbers: NDArray[np.float64]) -> list[Proposal]:
    """The entries nearest by Mendeleev number, without learning, votes or other prototypes."""
    elements, counts = sorted_species(atoms)
    group = library.group(counts)
    if not len(group):
        return []
    weights = np.array(counts, dtype=float)
    per_case = [
        (np.abs(numbers[group.elements[:, case]] - numbers[elements]) * weights).sum(1)
        for case in group.permutations
    ]
    distances = np.stack(per_case, axis=1)
    distances[group.same_compound(elements)] = np.inf
    best = distances.min(1)
    found = []
    for placed in np.argsort(best, kind="stable")[:MOST]:
        if not np.isfinite(best[placed]):
            break
        entry = int(group.members[placed])
        renamed = np.empty(len(elements), dtype=np.int64)
        renamed[group.permutations[distances[placed].argmin()]] = elements
        numbers_here = np.repeat(renamed, counts)
        lattice = library.entries.lattices[entry].astype(float)
        found.append(
            Proposal(numbers_here, library.entries.frac(entry), lattice, prototype_id="",
                     space_group=0, score=-float(best[placed]), features=_UNRANKED,
                     **source_of(library.entries, entry))
        )  # fmt: skip
    return found


def summary(
    name: str, found: Answers, targets: Crystals, in_train: NDArray[np.bool_]
) -> pd.DataFrame:
    """One row for all compositions and one for each part of them."""
    kinds = np.array([len(atoms_of(target)) for target in targets])
    parts = {"all": np.ones(len(targets), dtype=bool)}
    parts |= {f"{k} elements": kinds == k for k in np.unique(kinds)}
    parts |= {"formula in train": in_train, "formula not in train": ~in_train}
    rows = []
    for part, mask in parts.items():
        if not mask.any():
            continue
        some = found.distances[mask]
        row: dict[str, Any] = {"method": name, "part": part, "n": int(mask.sum())}
        for top in TOPS:
            hit = np.isfinite(some[:, :top]).any(1)
            row[f"match {top}"] = hit.mean()
            row[f"± {top}"] = hit.std() / np.sqrt(len(hit))
        row["match_rate_valid"] = (np.isfinite(some[:, 0]) & found.valid[mask]).mean()
        first = some[:, 0][np.isfinite(some[:, 0])]
        volumes = np.abs(found.volume_error[mask])
        matched = volumes[np.isfinite(some[:, 0])]
        row["RMSE"] = first.mean() if len(first) else np.nan
        row["± RMSE"] = first.std() / np.sqrt(len(first)) if len(first) else np.nan
        # Of all first proposals, and of those that match.
        row["volume error"] = np.nanmedian(volumes)
        row["if matched"] = np.median(matched) if len(matched) else np.nan
        row["ms a composition"] = 1e3 * found.seconds[mask].mean()
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
