"""Which generated structures enter: all, or a random draw, of all or of the valid ones."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Settings, random_generator
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.validity import valid_structures


def parse_subset(text: str) -> tuple[bool, int | None]:
    """Split `all`, `N`, `valid:all`, `valid` (the same) or `valid:N` into its parts.

    Returns:
        Whether only valid structures enter, and how many; None for all of them.

    Raises:
        UserError: if it is none of these.
    """
    match = re.fullmatch(r"(all)|(valid(?::all)?)|(valid:)?([1-9][0-9]{0,17})", text)
    if match is None:
        raise UserError(f"A subset is all, a number, valid:all, or valid:NUMBER; not {text!r}.")
    return bool(match[2] or match[3]), int(match[4]) if match[4] else None


def draw_subset(gen: Sample, settings: Settings) -> NDArray[np.intp]:
    """Indices of the generated structures that enter, drawn without replacement.

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


def _too_few(settings: Settings, count: int, found: int, read: int, only_valid: bool) -> str:
    """Say that a subset asks for more structures than there are, and what to do."""
    asks = "subset" if settings.protocol in (None, "full") else f"protocol {settings.protocol}"
    kind = "valid generated" if only_valid else "generated"
    there = f"{found:,} of the {read:,} that were read" if only_valid else f"{found:,}"
    text = f"The {asks} asks for {count:,} {kind} structures; there are {there}. Generate more"
    rest = "valid:all" if only_valid else "all"
    mark = ", and have the row marked as of fewer structures" if asks != "subset" else ""
    return f"{text}, or take those there are with --subset {rest}{mark}."
