"""Fit the weights of `scoring.probability`:

`python -m crysgen.retrieval.training.fit_probability LIBRARY -o probability.json`

Examples (`leave_one_out`) are of formulas of the folds that `plausibility` was not trained on. Only
what matches the crystal is taken out of the library, other polymorphs of its formula stay, as in
benchmarks: crystals of any energy for exact cells, those on the hull for formulas.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.scoring.calibration import logits_of
from crysgen.retrieval.scoring.probability import INPUTS, inputs
from crysgen.retrieval.training.fit_calibration import (
    ON_HULL,
    calibration_entries,
    with_plausibility,
)
from crysgen.retrieval.training.leave_one_out import Example, leave_one_out_examples
from crysmetrics.errors import UserError
from crysmetrics.io.json_files import write_json
from crysmetrics.progress import show_progress, task

PLACES = 20
"""Number of places that count."""
PENALTY = 1e-3
"""Penalty on squared weights of inputs of unit spread."""
AROUND = 3e-3
"""The same on differences from the weights for cells, where those for formulas are fitted: there
are fewer examples."""

Ranked = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Inputs (n, f) of the first places of an example, and which proposals match (n,)."""


def ranked(example: Example) -> Ranked:
    """Put the proposals of an example in order, and keep the first places."""
    logits = logits_of(example.features, example.by_formula)
    order = np.argsort(-logits, kind="stable")
    sizes = np.array([len(numbers) for numbers, _, _ in example.cells])
    table = inputs(logits[order], example.features[order].astype(np.float64), sizes[order])
    return table[:PLACES], example.is_match[order][:PLACES]


def of_first_and_later(examples: Sequence[Ranked]) -> dict[str, Ranked]:
    """Put the first proposals of all examples into one table, and the others into another."""
    table = np.concatenate([x for x, _ in examples])
    is_match = np.concatenate([y for _, y in examples])
    is_first = table[:, INPUTS.index("place")] == 0
    return {
        "first": (table[is_first], is_match[is_first]),
        "later": (table[~is_first], is_match[~is_first]),
    }


def fitted(
    table: NDArray[np.float64],
    is_match: NDArray[np.bool_],
    around: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fit weights (f,) of the inputs by logistic regression.

    Args:
        table: (n, f) inputs of proposals.
        is_match: (n,) which are right.
        around: (f,) weights that are good already; 0 by default.
    """
    from scipy.optimize import minimize

    spread = table.std(axis=0)
    spread[spread < 1e-9] = 1.0
    scaled = table / spread
    start = (np.zeros(len(spread)) if around is None else around) * spread
    penalty = np.where(np.array(INPUTS) == "constant", 0.0, PENALTY if around is None else AROUND)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = scaled @ weights
        moved = weights - start
        value = (np.logaddexp(0, odds) - is_match * odds).mean() + penalty @ moved**2
        wrong = 1 / (1 + np.exp(-odds)) - is_match
        return float(value), scaled.T @ wrong / len(wrong) + 2 * penalty * moved

    found: NDArray[np.float64] = minimize(loss, start, jac=True, method="BFGS").x / spread
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fit the probabilities of proposals.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="at most so many of each kind")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(given)
    library = Library.load(arguments.library, extra=[])
    chosen = calibration_entries(library, arguments.examples)
    stable = [i for i in chosen if library.entries.e_above_hull[i] <= ON_HULL]
    ways = [(i, False) for i in chosen] + [(i, True) for i in stable]
    examples = []
    with show_progress(), task("examples", len(ways)) as advance:
        for example in leave_one_out_examples(
            arguments.library, ways, arguments.workers, whole_formula=False
        ):
            examples.append(example)
            advance(1)
    examples = with_plausibility(examples)
    parts = [[ranked(e) for e in examples if e.by_formula == way] for way in (False, True)]
    if not all(any(y.any() for _, y in part) for part in parts):
        raise UserError("No example has a proposal that matches, so that nothing can be fitted.")
    write_json(fitted_weights(*parts), arguments.output)


def fitted_weights(
    cells: Sequence[Ranked], formulas: Sequence[Ranked]
) -> dict[str, dict[str, dict[str, float]]]:
    """Fit all weights, in the layout of `scoring.probability.WEIGHTS`, to four digits."""
    cell = {of: fitted(*some) for of, some in of_first_and_later(cells).items()}
    formula = {
        of: fitted(*some, around=cell[of]) for of, some in of_first_and_later(formulas).items()
    }
    return {
        kind: {
            of: {name: round(w, 4) for name, w in zip(INPUTS, found.tolist(), strict=True)}
            for of, found in weights.items()
        }
        for kind, weights in (("cell", cell), ("formula", formula))
    }


if __name__ == "__main__":
    main()
