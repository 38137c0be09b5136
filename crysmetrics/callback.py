"""Evaluate inside a training loop, every so many steps, on a few samples."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysmetrics.errors import InputError, UserError
from crysmetrics.evaluation import as_sample, evaluate
from crysmetrics.features.sample import Sample
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.csv_files import write_csv

if TYPE_CHECKING:
    import pandas as pd

    from crysmetrics.reporting.report import Report

DEFAULT_METRICS = ("struct_validity", "validity", "emd_density", "cov_recall", "cov_precision")

log = logging.getLogger(__name__)


class EvaluationCallback:
    """Call it at every step; every so many of them it samples, evaluates, and keeps the numbers.

    Works with any framework:

    >>> check = EvaluationCallback(lambda n: model.sample(n), "mp20-test-bt", every=5000)
    >>> for step, batch in enumerate(batches, start=1):
    ...     train(batch)
    ...     if report := check(step):
    ...         logger.log(report["cov_recall"], step)

    A model that has not learnt anything yet may make nothing that is a crystal: such a step has
    a row with the reason and no values, and training goes on.

    Args:
        generate: takes a number and returns so many structures: Crystals, or pymatgen's.
        reference: Crystals, a path, a reference's name, or pymatgen structures.
        every: steps between evaluations.
        count: structures to generate each time.
        reference_count: structures of the reference, drawn once; all if None.
        metrics: keys or families; the cheap ones by default (`fad` takes a network's time).
        path: of a CSV that is written anew after every evaluation, if given.
        options: as for `crysmetrics.evaluate`.

    Raises:
        UserError: if a number is not positive, or the reference can't be used.
    """

    def __init__(
        self,
        generate: Callable[[int], Any],
        reference: Any,
        *,
        every: int = 1000,
        count: int = 500,
        reference_count: int | None = None,
        metrics: Sequence[str] = DEFAULT_METRICS,
        path: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if every < 1 or count < 1:
            raise UserError("every and count are numbers of steps and structures, 1 or more.")
        self.generate = generate
        self.every = every
        self.count = count
        self.metrics = tuple(metrics)
        self.path = None if path is None else Path(path)
        self.options = options
        self.rows: list[dict[str, Any]] = []
        self.reference = _drawn(as_sample(reference, "ref"), reference_count)

    def __call__(self, step: int) -> Report | None:
        """Return the report of this step; None if it is not its turn or has nothing to evaluate."""
        return self.evaluate(step) if step % self.every == 0 else None

    def evaluate(self, step: int) -> Report | None:
        """Sample and evaluate now; None if nothing that was generated is a crystal."""
        start = time.perf_counter()
        generated = self.generate(self.count)
        sampled = time.perf_counter()
        row: dict[str, Any] = {"step": step, "seconds_sampling": sampled - start}
        report = None
        try:
            report = evaluate(generated, self.reference, metrics=self.metrics, **dict(self.options))
            for key, value in report.metrics.items():
                row[key], row[f"{key}_stderr"] = value.value, value.stderr
        except InputError as error:
            log.warning("Step %d: %s", step, error)
            row["reason"] = str(error)
        row["seconds_evaluating"] = time.perf_counter() - sampled
        self.rows.append(row)
        if self.path is not None:
            with atomic_file(self.path) as temporary:
                write_csv(self.history, temporary)
        return report

    @property
    def history(self) -> pd.DataFrame:
        """Table of all evaluations: `step`, the metrics with standard errors, seconds."""
        import pandas as pd

        return pd.DataFrame(self.rows)


def _drawn(reference: Sample, count: int | None) -> Sample:
    if count is None or count >= len(reference):
        return reference
    import numpy as np

    chosen = np.sort(np.random.default_rng(0).choice(len(reference), count, replace=False))
    return reference.chosen(chosen)
