"""Train the networks of `scoring.plausibility`:

`python -m crysgen.retrieval.training.train_plausibility LIBRARY -o plausibility.safetensors`

Formulas of the folds that `fit_calibration` holds out are not learned from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.scoring.plausibility import save_plausibility
from crysgen.retrieval.training.fit_calibration import HELD_OUT
from crysgen.retrieval.training.leave_one_out import held_out_entries, leave_one_out_examples
from crysgen.retrieval.training.plausibility import EPOCHS, train_plausibility
from crysmetrics.progress import show_progress, task

NETWORKS = 3
"""Number of networks that are averaged."""
FORMULA_EVERY = 3
"""Of so many examples one asks by the reduced formula."""


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the networks of plausibility.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="at most so many")
    parser.add_argument("--networks", type=int, default=NETWORKS, help="to average")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(given)
    library = Library.load(arguments.library, extra=[])
    chosen = held_out_entries(library, arguments.examples).tolist()
    examples = []
    with show_progress(), task("examples", len(chosen)) as advance:
        ways = [(entry, number % FORMULA_EVERY == 0) for number, entry in enumerate(chosen)]
        for example in leave_one_out_examples(arguments.library, ways, arguments.workers):
            advance(1)
            if example.fold not in HELD_OUT:
                examples.append(example)
    networks = [
        train_plausibility(examples, seed, arguments.epochs) for seed in range(arguments.networks)
    ]
    save_plausibility(networks, arguments.output)


if __name__ == "__main__":
    main()
