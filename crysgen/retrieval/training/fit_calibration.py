"""Fit the weights of `scoring.calibration`:

`python -m crysgen.retrieval.training.fit_calibration LIBRARY -o calibration.json`

Examples (`leave_one_out`) are of formulas of the folds that `plausibility` was not trained on.
Matching proposals count, and doubly so in the right space group. Only the weights for
formulas are fitted, near those for exact cells, which stay: to crystals on the hull, as who asks
for a formula wants its ground state.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.scoring.calibration import FEATURES, WEIGHTS, fit
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


def fitted(examples: Sequence[Example]) -> dict[str, float]:
    """Fit weights near those for cells, in the order of FEATURES.

    Features that do not vary, as all entries of the formula are left out, keep their weights.
    """
    now = np.array([WEIGHTS["cell"][name] for name in FEATURES])
    tables = [example.features.astype(np.float64) for example in examples] * 2
    is_match = [example.is_match for example in examples] + [
        example.is_symmetric_match for example in examples
    ]
    return dict(zip(FEATURES, fit(tables, is_match, now).tolist(), strict=True))


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fit the order of proposals.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="at most so many")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(given)
    library = Library.load(arguments.library, extra=[])
    chosen = calibration_entries(library, arguments.examples)
    stable = [i for i in chosen if library.entries.e_above_hull[i] <= ON_HULL]
    ways = [(i, True) for i in stable]
    examples = []
    with show_progress(), task("examples", len(ways)) as advance:
        for example in leave_one_out_examples(arguments.library, ways, arguments.workers):
            examples.append(example)
            advance(1)
    if not any(example.is_match.any() for example in examples):
        raise UserError("No example has a proposal that matches, so that nothing can be fitted.")
    found = {name: round(weight, 3) for name, weight in fitted(with_plausibility(examples)).items()}
    weights = {"cell": WEIGHTS["cell"], "formula": found}
    write_json(weights, arguments.output)


if __name__ == "__main__":
    main()
