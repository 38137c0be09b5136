"""Which generated structures enter: all, or a random draw, of all or of the valid ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import random_generator
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.settings import EvaluationSettings, parse_subset
from crysmetrics.metrics.validity import valid_structures


def draw_subset(gen: Sample, settings: EvaluationSettings) -> NDArray[np.intp]:
    """Draw the indices of the generated structures that enter, without replacement.

    CDVAE draws 1,000 valid ones (`valid:1000`); GemsDiff takes all, unfiltered (`all`).

    Raises:
        UserError: if there are fewer than asked for.
    """
    only_valid, count = parse_subset(settings.subset)
    chosen = np.arange(len(gen))
    if only_valid:
        structure, _ = valid_structures(gen.crystals, settings, gen.run.workers)
        counts = gen.crystals.element_counts
        chosen = chosen[structure & valid_compositions(counts, settings.oxidation_states)]
    if count is None:
        return chosen
    if count > len(chosen):
        raise UserError(_too_few(settings, count, len(chosen), len(gen), only_valid))
    return np.sort(random_generator(settings, "subset").choice(chosen, count, replace=False))


def _too_few(
    settings: EvaluationSettings, count: int, found: int, read: int, only_valid: bool
) -> str:
    """Say that a subset asks for more structures than there are, and what to do."""
    asks = "subset" if settings.protocol in (None, "full") else f"protocol {settings.protocol}"
    kind = "valid generated" if only_valid else "generated"
    there = f"{found:,} of the {read:,} that were read" if only_valid else f"{found:,}"
    text = f"The {asks} asks for {count:,} {kind} structures; there are {there}. Generate more"
    rest = "valid:all" if only_valid else "all"
    mark = ", and have the row marked as of fewer structures" if asks != "subset" else ""
    return f"{text}, or take those there are with --subset {rest}{mark}."
