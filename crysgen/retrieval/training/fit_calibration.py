"""Fit the weights of `scoring.calibration`:

`python -m crysgen.retrieval.training.fit_calibration LIBRARY -o calibration.json`

Examples (`leave_one_out`) are of formulas of the folds that `plausibility` was not trained on.
For exact cells, only what matches the crystal is taken out of the library, as in benchmarks. For
formulas, the whole formula is, crystals are those on the hull, as who asks for a formula wants its
ground state, and matches in the right space group count twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.scoring.calibration import FEATURES, SIMPLICITY, WEIGHTS, fit
from crysgen.retrieval.scoring.plausibility import load_plausibility
from crysgen.retrieval.training.leave_one_out import (
    Example,
    fold_of,
    held_out_entries,
    leave_one_out_examples,
)
from crysmetrics.errors import UserError
from crysmetrics.io.json_files import write_json
from crysmetrics.progress import show_progress, task

HELD_OUT = (0,)
"""Folds whose formulas the plausibility network does not learn from."""
CELL_PENALTY = 1e-2
"""Penalty (`calibration.fit`) where weights for exact cells are fitted: there are more examples."""
ON_HULL = 0.001
"""Distance in eV/atom at or below which crystals lie on the hull."""


def calibration_entries(library: Library, count: int | None = None) -> list[int]:
    """Choose up to `count` entries whose formulas are in the folds that are held out."""
    entries = library.entries
    found = []
    for i in held_out_entries(library).tolist():
        atoms = dict(zip(entries.species(i).tolist(), entries.counts(i), strict=True))
        if fold_of(atoms) in HELD_OUT:
            found.append(i)
    return found[:count]


def with_plausibility(examples: Sequence[Example]) -> list[Example]:
    """Add the scores of the shipped plausibility networks to the features of examples."""
    networks = load_plausibility()
    column = FEATURES.index("plausibility")
    found = []
    for example in examples:
        features = example.features.copy()
        features[:, column] = networks.scores(example.cells)
        found.append(replace(example, features=features))
    return found


def fitted(examples: Sequence[Example], by_formula: bool = True) -> dict[str, float]:
    """Fit weights near those for cells, in the order of FEATURES.

    Features that do not vary keep their weights, and so do those of simplicity. So do those of
    entries of the very formula, which are left out: as the right one is not among them, they would
    seem to be wrong always.

    Args:
        examples: of different compositions.
        by_formula: whether matches in the right space group count twice, and weights stay nearer.
    """
    kept = np.isin(FEATURES, SIMPLICITY)
    now = np.array([WEIGHTS["cell"][name] for name in FEATURES])
    if by_formula:
        now[kept] = [WEIGHTS["formula"][name] for name in SIMPLICITY]
    tables = [example.features[~example.is_known].astype(np.float64) for example in examples]
    is_match = [example.is_match[~example.is_known] for example in examples]
    if not by_formula:
        weights = fit(tables, is_match, now, CELL_PENALTY, kept=kept)
        return dict(zip(FEATURES, weights.tolist(), strict=True))
    symmetric = [example.is_symmetric_match[~example.is_known] for example in examples]
    found = fit(tables * 2, is_match + symmetric, now, kept=kept)
    return dict(zip(FEATURES, found.tolist(), strict=True))


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fit the order of proposals.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="at most so many of each kind")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(given)
    library = Library.load(arguments.library, extra=[])
    chosen = calibration_entries(library, arguments.examples)
    stable = [i for i in chosen if library.entries.e_above_hull[i] <= ON_HULL]
    weights = {}
    with show_progress(), task("examples", len(chosen) + len(stable)) as advance:
        for kind, wanted in (("cell", chosen), ("formula", stable)):
            by_formula = kind == "formula"
            examples = []
            for example in leave_one_out_examples(
                arguments.library,
                [(i, by_formula) for i in wanted],
                arguments.workers,
                whole_formula=by_formula,
            ):
                examples.append(example)
                advance(1)
            if not any(example.is_match.any() for example in examples):
                raise UserError(
                    "No example has a proposal that matches, so that nothing can be fitted."
                )
            found = fitted(with_plausibility(examples), by_formula)
            weights[kind] = {name: round(weight, 3) for name, weight in found.items()}
    write_json(weights, arguments.output)


if __name__ == "__main__":
    main()
