"""Fits the weights of `calibration`:

`python -m crysgen.retrieval.training.fit_calibration LIBRARY -o calibration.json`

The library answers `questions` about formulas of the folds that `plausibility` was not trained on.
Proposals are right if they match, and doubly so in the right space group. Only the weights for
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
from crysmetrics.io.json_files import write_json
from crysmetrics.progress import show_progress, task

HELD_OUT = (0,)
"""Folds whose formulas `plausibility` does not learn from."""
ON_HULL = 0.001
"""eV/atom."""


def held_out(library: Library, count: int | None = None) -> list[int]:
    """Entries to ask for whose formulas are in the folds that are held out."""
    entries = library.entries
    found = []
    for i in held_out_entries(library).tolist():
        atoms = dict(zip(entries.species(i).tolist(), entries.counts(i), strict=True))
        if fold_of(atoms) in HELD_OUT:
            found.append(i)
    return found[:count]


def judged(examples: Sequence[Example]) -> list[Example]:
    """The same questions with what the shipped `plausibility` says."""
    networks = load_plausibility()
    column = FEATURES.index("plausibility")
    found = []
    for example in examples:
        features = example.features.copy()
        features[:, column] = networks.scores(example.cells)
        found.append(replace(example, features=features))
    return found


def fitted(examples: Sequence[Example]) -> dict[str, float]:
    """Weights near those for cells, in the order of FEATURES.

    Features that questions do not tell about, as all entries of the formula are left out, are the
    same in all their proposals, and keep their weights.
    """
    now = np.array([WEIGHTS["cell"][name] for name in FEATURES])
    tables = [example.features.astype(np.float64) for example in examples] * 2
    is_match = [example.is_match for example in examples] + [
        example.symmetric for example in examples
    ]
    return dict(zip(FEATURES, fit(tables, is_match, now).tolist(), strict=True))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the order of proposals.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--questions", type=int, help="at most so many")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    library = Library.load(arguments.library, extra=[])
    chosen = held_out(library, arguments.leave_one_out_examples)
    stable = [i for i in chosen if library.entries.e_above_hull[i] <= ON_HULL]
    ways = [(i, True) for i in stable]
    examples = []
    with show_progress(), task("questions", len(ways)) as advance:
        for example in leave_one_out_examples(arguments.library, ways, arguments.workers):
            examples.append(example)
            advance(1)
    found = {name: round(weight, 3) for name, weight in fitted(judged(examples)).items()}
    weights = {"cell": WEIGHTS["cell"], "formula": found}
    write_json(weights, arguments.output)


if __name__ == "__main__":
    main()
